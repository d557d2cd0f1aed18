//! The Auth service while authentication is always off: it says so, which is what clients with a password ask first.
//! Users and roles have their own issue; until then the methods that would change them answer `Unimplemented`.

use std::sync::Arc;

use tonic::{Request, Response as Reply, Status};

use crate::api::call::{Audience, Call};
use crate::api::error::ApiError;
use crate::api::state::State;
use crate::proto::etcdserverpb as pb;

/// Revision of an auth store that never changed.
const FIRST_AUTH_REVISION: u64 = 1;

/// Whether authentication is on.
pub fn status(state: &State) -> pb::AuthStatusResponse {
    pb::AuthStatusResponse { header: state.header_now(), enabled: false, auth_revision: FIRST_AUTH_REVISION }
}

/// The gRPC face of this file.
#[derive(Clone)]
pub struct Auth(pub Arc<State>);

#[tonic::async_trait]
impl pb::auth_server::Auth for Auth {
    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Reply<pb::AuthStatusResponse>, Status> {
        Call::admit(&self.0, request.metadata().as_ref(), Audience::Voters)?;
        Ok(Reply::new(status(&self.0)))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Reply<pb::AuthenticateResponse>, Status> {
        Call::admit(&self.0, request.metadata().as_ref(), Audience::Voters)?;
        // Clients take this answer as leave to go on without a token.
        Err(ApiError::AuthNotEnabled.into())
    }

    async fn auth_enable(
        &self,
        _request: Request<pb::AuthEnableRequest>,
    ) -> Result<Reply<pb::AuthEnableResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }

    async fn auth_disable(
        &self,
        _request: Request<pb::AuthDisableRequest>,
    ) -> Result<Reply<pb::AuthDisableResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }

    async fn user_add(
        &self,
        _request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Reply<pb::AuthUserAddResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }

    async fn user_get(
        &self,
        _request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Reply<pb::AuthUserGetResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }

    async fn user_list(
        &self,
        _request: Request<pb::AuthUserListRequest>,
    ) -> Result<Reply<pb::AuthUserListResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }

    async fn user_delete(
        &self,
        _request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Reply<pb::AuthUserDeleteResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }

    async fn user_change_password(
        &self,
        _request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Reply<pb::AuthUserChangePasswordResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }

    async fn user_grant_role(
        &self,
        _request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Reply<pb::AuthUserGrantRoleResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }

    async fn user_revoke_role(
        &self,
        _request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Reply<pb::AuthUserRevokeRoleResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }

    async fn role_add(
        &self,
        _request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Reply<pb::AuthRoleAddResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }

    async fn role_get(
        &self,
        _request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Reply<pb::AuthRoleGetResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }

    async fn role_list(
        &self,
        _request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Reply<pb::AuthRoleListResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }

    async fn role_delete(
        &self,
        _request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Reply<pb::AuthRoleDeleteResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }

    async fn role_grant_permission(
        &self,
        _request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Reply<pb::AuthRoleGrantPermissionResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }

    async fn role_revoke_permission(
        &self,
        _request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Reply<pb::AuthRoleRevokePermissionResponse>, Status> {
        Err(ApiError::NotImplemented.into())
    }
}

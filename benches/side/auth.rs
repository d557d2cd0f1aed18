//! Authentication as an application meets it: one user, whose role allows its own keys.

use etcd_charm::proto::authpb::{Permission, permission};
use etcd_charm::proto::etcdserverpb as pb;

use super::load::{KEYS_END, KEYS_START};
use super::wire::Connection;

const PASSWORD: &str = "bench";
const USER: &str = "bench";

/// Makes the users, turns authentication on and logs the load's user in.
///
/// # Returns
/// The user's token.
pub async fn enable(connection: &Connection) -> Result<String, String> {
    for name in ["root", USER] {
        let user = pb::AuthUserAddRequest { name: name.into(), password: PASSWORD.into(), ..Default::default() };
        connection.unary::<_, pb::AuthUserAddResponse>("/etcdserverpb.Auth/UserAdd", &user).await?;
        let role = pb::AuthRoleAddRequest { name: name.into() };
        connection.unary::<_, pb::AuthRoleAddResponse>("/etcdserverpb.Auth/RoleAdd", &role).await?;
        let grant = pb::AuthUserGrantRoleRequest { user: name.into(), role: name.into() };
        connection.unary::<_, pb::AuthUserGrantRoleResponse>("/etcdserverpb.Auth/UserGrantRole", &grant).await?;
    }
    let allowed = Permission {
        perm_type: permission::Type::Readwrite.into(),
        key: KEYS_START.into(),
        range_end: KEYS_END.into(),
    };
    let allow = pb::AuthRoleGrantPermissionRequest { name: USER.into(), perm: Some(allowed) };
    let path = "/etcdserverpb.Auth/RoleGrantPermission";
    connection.unary::<_, pb::AuthRoleGrantPermissionResponse>(path, &allow).await?;
    let on = pb::AuthEnableRequest {};
    connection.unary::<_, pb::AuthEnableResponse>("/etcdserverpb.Auth/AuthEnable", &on).await?;
    let login = pb::AuthenticateRequest { name: USER.into(), password: PASSWORD.into() };
    let answer: pb::AuthenticateResponse = connection.unary("/etcdserverpb.Auth/Authenticate", &login).await?;
    Ok(answer.token)
}

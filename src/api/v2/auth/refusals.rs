//! etcd's status and sentence for each refusal about users and roles. Some clients compare them by regular expression, so
//! they stand as etcd has them, missing full stops included.

use http::{Response, StatusCode};

use super::super::message;
use crate::api::body::ClientBody;
use crate::model::v2::auth::types::Reason;

/// The answer to a refused request about `subject`, and about `user` where a user's roles were to change.
pub(super) fn response(reason: Reason, subject: &str, user: &str) -> Response<ClientBody> {
    let (status, sentence) = sentence(reason, subject, user);
    message(status, &format!("auth: {sentence}"))
}

fn sentence(reason: Reason, subject: &str, user: &str) -> (StatusCode, String) {
    use StatusCode as Status;
    match reason {
        Reason::EmptyPassword => (Status::BAD_REQUEST, format!("Cannot create user {subject} with an empty password")),
        Reason::UserExists => (Status::CONFLICT, format!("User {subject} already exists.")),
        Reason::NoUser => (Status::NOT_FOUND, format!("User {subject} does not exist.")),
        Reason::NoUserToDelete => (Status::NOT_FOUND, format!("User {subject} does not exist")),
        Reason::UserUnchanged => {
            (Status::BAD_REQUEST, "User not updated. Use grant/revoke/password to update the user.".to_owned())
        }
        Reason::DuplicateRole => (Status::CONFLICT, format!("Granting duplicate role {subject} for user {user}")),
        Reason::UngrantedRole => (Status::CONFLICT, format!("Revoking ungranted role {subject} for user {user}")),
        Reason::RootStays => (Status::FORBIDDEN, "Cannot delete root user while auth is enabled.".to_owned()),
        Reason::RoleExists => (Status::CONFLICT, format!("Role {subject} already exists.")),
        Reason::NoRole => (Status::NOT_FOUND, format!("Role {subject} does not exist.")),
        Reason::NoRoleToDelete => (Status::NOT_FOUND, format!("Role {subject} doesn't exist.")),
        Reason::RoleUnchanged => {
            (Status::BAD_REQUEST, "Role not updated. Use grant/revoke to update the role.".to_owned())
        }
        Reason::RoleIsRoot => (Status::FORBIDDEN, format!("Cannot modify role {subject}: is root role.")),
        Reason::DuplicateRead => (Status::CONFLICT, format!("Granting duplicate read permission {subject}")),
        Reason::DuplicateWrite => (Status::CONFLICT, format!("Granting duplicate write permission {subject}")),
        Reason::NoRootUser => (Status::CONFLICT, "No root user available, please create one".to_owned()),
        Reason::AlreadyEnabled => (Status::CONFLICT, "already enabled".to_owned()),
        Reason::AlreadyDisabled => (Status::CONFLICT, "already disabled".to_owned()),
    }
}

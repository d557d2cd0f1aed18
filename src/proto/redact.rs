//! How messages that can hold a secret print themselves: with everything else, and `***` where the secret is.
//!
//! `build.rs` leaves out the derived form of exactly these messages, so a new one does not build until it is here.

use std::fmt::{Debug, Formatter, Result};

use super::{authpb, command, etcdserverpb as pb};

/// Stands for a secret of any length; an empty one is told apart, because that is a common mistake of clients.
fn hidden(secret: &[u8]) -> &'static str {
    if secret.is_empty() { "" } else { "***" }
}

impl Debug for authpb::User {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("password", &hidden(&self.password))
            .field("roles", &self.roles)
            .field("options", &self.options)
            .finish()
    }
}

impl Debug for pb::AuthenticateRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AuthenticateRequest")
            .field("name", &self.name)
            .field("password", &hidden(self.password.as_bytes()))
            .finish()
    }
}

impl Debug for pb::AuthenticateResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AuthenticateResponse")
            .field("header", &self.header)
            .field("token", &hidden(self.token.as_bytes()))
            .finish()
    }
}

impl Debug for pb::AuthUserAddRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AuthUserAddRequest")
            .field("name", &self.name)
            .field("password", &hidden(self.password.as_bytes()))
            .field("options", &self.options)
            .field("hashed_password", &hidden(self.hashed_password.as_bytes()))
            .finish()
    }
}

impl Debug for pb::AuthUserChangePasswordRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AuthUserChangePasswordRequest")
            .field("name", &self.name)
            .field("password", &hidden(self.password.as_bytes()))
            .field("hashed_password", &hidden(self.hashed_password.as_bytes()))
            .finish()
    }
}

impl Debug for command::Login {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let token_prefix = hidden(self.token_prefix.as_bytes());
        f.debug_struct("Login").field("user", &self.user).field("token_prefix", &token_prefix).finish()
    }
}

impl Debug for command::NewUser {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("NewUser")
            .field("name", &self.name)
            .field("password_hash", &hidden(&self.password_hash))
            .field("no_password", &self.no_password)
            .finish()
    }
}

impl Debug for command::NewPassword {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let password_hash = hidden(&self.password_hash);
        f.debug_struct("NewPassword").field("user", &self.user).field("password_hash", &password_hash).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use command::auth_command::Action;
    use command::envelope::Command;

    #[test]
    fn no_message_prints_a_password_a_hash_or_a_token() {
        let secret = || "hunter2".to_owned();
        let in_log = |action| {
            let command = Some(Command::Auth(command::AuthCommand { action: Some(action) }));
            format!("{:?}", command::Envelope { command, ..Default::default() })
        };
        let printed = [
            format!("{:?}", authpb::User { name: "ann".into(), password: secret().into(), ..Default::default() }),
            format!("{:?}", pb::AuthenticateRequest { name: "ann".into(), password: secret() }),
            format!("{:?}", pb::AuthenticateResponse { header: None, token: secret() }) + "ann",
            format!(
                "{:?}",
                pb::AuthUserAddRequest {
                    name: "ann".into(),
                    password: secret(),
                    hashed_password: secret(),
                    options: None
                }
            ),
            format!(
                "{:?}",
                pb::AuthUserChangePasswordRequest { name: "ann".into(), password: secret(), hashed_password: secret() }
            ),
            in_log(Action::Login(command::Login { user: "ann".into(), token_prefix: secret() })),
            in_log(Action::UserAdd(command::NewUser {
                name: "ann".into(),
                password_hash: secret().into(),
                no_password: false,
            })),
            in_log(Action::UserChangePassword(command::NewPassword {
                user: "ann".into(),
                password_hash: secret().into(),
            })),
        ];
        for text in printed {
            assert!(text.contains("ann") && text.contains("***") && !text.contains("hunter2"), "{text}");
        }
    }
}

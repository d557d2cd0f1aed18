//! Users, roles, changes of them and refusals, and their encoding in the log and in the store.

/// A list that may be absent, which etcd shows as `null`, unlike an empty one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Names {
    /// In the order given, or sorted once a change has been applied.
    #[prost(string, repeated, tag = "1")]
    pub names: Vec<String>,
}

/// A user as stored. `root` has the role root whatever is stored.
#[derive(Clone, PartialEq, prost::Message)]
pub struct User {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// bcrypt hash of its password.
    #[prost(string, tag = "2")]
    pub password: String,
    /// Its roles, which need not exist.
    #[prost(message, optional, tag = "3")]
    pub roles: Option<Names>,
}

impl User {
    /// Names of its roles.
    pub fn roles(&self) -> &[String] {
        self.roles.as_ref().map_or(&[], |roles| &roles.names)
    }
}

/// Path patterns: one ending in `*` matches a prefix.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Permissions {
    /// Readable paths.
    #[prost(message, optional, tag = "1")]
    pub read: Option<Names>,
    /// Writable paths.
    #[prost(message, optional, tag = "2")]
    pub write: Option<Names>,
}

impl Permissions {
    /// Readable paths.
    pub fn read(&self) -> &[String] {
        self.read.as_ref().map_or(&[], |patterns| &patterns.names)
    }

    /// Writable paths.
    pub fn write(&self) -> &[String] {
        self.write.as_ref().map_or(&[], |patterns| &patterns.names)
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.read().is_empty() && self.write().is_empty()
    }
}

/// A role.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Role {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What it permits.
    #[prost(message, optional, tag = "2")]
    pub permissions: Option<Permissions>,
}

/// A PUT of a user. With `grant` or `revoke` it changes an existing user; with `roles` it creates one; with neither it
/// creates or changes, depending on whether the user exists.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PutUser {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// bcrypt hash of the new password; empty = none was given.
    #[prost(string, tag = "2")]
    pub password: String,
    /// Roles of a new user.
    #[prost(message, optional, tag = "3")]
    pub roles: Option<Names>,
    /// Roles to add.
    #[prost(string, repeated, tag = "4")]
    pub grant: Vec<String>,
    /// Roles to take away.
    #[prost(string, repeated, tag = "5")]
    pub revoke: Vec<String>,
}

/// A PUT of a role: with a non-empty `grant` or `revoke` it changes an existing role, else it creates one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PutRole {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Permissions of a new role.
    #[prost(message, optional, tag = "2")]
    pub permissions: Option<Permissions>,
    /// Permissions to add.
    #[prost(message, optional, tag = "3")]
    pub grant: Option<Permissions>,
    /// Permissions to take away.
    #[prost(message, optional, tag = "4")]
    pub revoke: Option<Permissions>,
}

/// Turns authentication on or off.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Switch {
    /// On.
    #[prost(bool, tag = "1")]
    pub enable: bool,
}

/// One change of users, roles or the enabled flag.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Change {
    /// Make or change a user.
    #[prost(message, tag = "1")]
    PutUser(PutUser),
    /// Remove the user of this name.
    #[prost(string, tag = "2")]
    DeleteUser(String),
    /// Make or change a role.
    #[prost(message, tag = "3")]
    PutRole(PutRole),
    /// Remove the role of this name.
    #[prost(string, tag = "4")]
    DeleteRole(String),
    /// Turn authentication on or off.
    #[prost(message, tag = "5")]
    Switch(Switch),
}

/// A change as a command carries it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// What to do; always present.
    #[prost(oneof = "Change", tags = "1, 2, 3, 4, 5")]
    pub change: Option<Change>,
}

/// Why a change was refused. `subject` and `user` of the [`Refusal`] complete etcd's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Reason {
    /// A new user has no password.
    EmptyPassword = 0,
    /// The user to create with roles exists.
    UserExists = 1,
    /// The user to change or to show does not exist.
    NoUser = 2,
    /// The user to remove does not exist.
    NoUserToDelete = 3,
    /// The change would leave the user unchanged.
    UserUnchanged = 4,
    /// A role is granted twice to a user.
    DuplicateRole = 5,
    /// A role that the user does not have is revoked.
    UngrantedRole = 6,
    /// root cannot be deleted while authentication is on.
    RootStays = 7,
    /// The role to create exists.
    RoleExists = 8,
    /// The role to change or to show does not exist.
    NoRole = 9,
    /// The role to remove does not exist.
    NoRoleToDelete = 10,
    /// The change would leave the role unchanged.
    RoleUnchanged = 11,
    /// The role root cannot be changed.
    RoleIsRoot = 12,
    /// A permission to read is granted twice.
    DuplicateRead = 13,
    /// A permission to write is granted twice.
    DuplicateWrite = 14,
    /// Authentication cannot be turned on without a user root.
    NoRootUser = 15,
    /// Authentication is on already.
    AlreadyEnabled = 16,
    /// Authentication is off already.
    AlreadyDisabled = 17,
}

/// A refusal of a change.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Refusal {
    /// Why.
    #[prost(enumeration = "Reason", tag = "1")]
    pub reason: i32,
    /// The user, role or pattern it is about.
    #[prost(string, tag = "2")]
    pub subject: String,
    /// The user whose roles were to change, where the subject is a role.
    #[prost(string, tag = "3")]
    pub user: String,
}

/// The response to a change.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Outcome {
    /// The user after a PUT, without the password hash.
    #[prost(message, optional, tag = "1")]
    pub user: Option<User>,
    /// The role after a PUT.
    #[prost(message, optional, tag = "2")]
    pub role: Option<Role>,
    /// Whether it is new: etcd answers 201 then.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// Why nothing changed.
    #[prost(message, optional, tag = "4")]
    pub refusal: Option<Refusal>,
}

//! Users and roles as etcd reads and writes them: Go's decoder takes names of fields in any case, `null` for nothing,
//! and does not look at what follows the object.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::super::render;
use crate::model::v2::auth::role as role_named;
use crate::model::v2::auth::types::{Names, Permissions, PutRole, PutUser, Role, User};
use crate::model::view::{View, ViewError};

/// What etcd says to a body that does not decode.
pub(super) const INVALID: &str = "Invalid JSON in request body.";

/// The body of a PUT of the user `name`.
pub(super) fn read_user(body: &Bytes, name: &str) -> Result<PutUser, &'static str> {
    let object = Object::read(body)?;
    let list = |field: &str| object.list(field).map(|list| list.map_or_else(Vec::new, |list| list.names));
    let user = PutUser {
        name: object.text("user")?,
        password: object.text("password")?,
        roles: object.list("roles")?,
        grant: list("grant")?,
        revoke: list("revoke")?,
    };
    if user.name != name {
        return Err("User JSON name does not match the name in the URL");
    }
    let edits = !user.grant.is_empty() || !user.revoke.is_empty();
    if edits && user.roles.as_ref().is_some_and(|roles| !roles.names.is_empty()) {
        return Err("User JSON contains both roles and grant/revoke");
    }
    Ok(user)
}

/// The body of a PUT of the role `name`.
pub(super) fn read_role(body: &Bytes, name: &str) -> Result<PutRole, &'static str> {
    let object = Object::read(body)?;
    let role = PutRole {
        name: object.text("role")?,
        permissions: object.permissions("permissions")?,
        grant: object.permissions("grant")?,
        revoke: object.permissions("revoke")?,
    };
    if role.name != name {
        return Err("Role JSON name does not match the name in the URL");
    }
    let names_any = |permissions: &Option<Permissions>| permissions.as_ref().is_some_and(|given| !given.is_empty());
    if (names_any(&role.grant) || names_any(&role.revoke)) && names_any(&role.permissions) {
        return Err("Role JSON contains both permissions and grant/revoke");
    }
    Ok(role)
}

#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn read(body: &[u8]) -> Result<Self, &'static str> {
        let first = serde_json::Deserializer::from_slice(body).into_iter::<Value>().next();
        Self::of(first.and_then(Result::ok).as_ref().ok_or(INVALID)?)
    }

    fn of(value: &Value) -> Result<Self, &'static str> {
        match value {
            Value::Null => Ok(Self::default()),
            Value::Object(fields) => Ok(Self(fields.clone())),
            _ => Err(INVALID),
        }
    }

    fn get(&self, name: &str) -> &Value {
        let in_any_case = || self.0.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        self.0.get(name).or_else(in_any_case).unwrap_or(&Value::Null)
    }

    fn text(&self, name: &str) -> Result<String, &'static str> {
        text(self.get(name))
    }

    fn list(&self, name: &str) -> Result<Option<Names>, &'static str> {
        match self.get(name) {
            Value::Null => Ok(None),
            Value::Array(items) => Ok(Some(Names { names: items.iter().map(text).collect::<Result<_, _>>()? })),
            _ => Err(INVALID),
        }
    }

    fn permissions(&self, name: &str) -> Result<Option<Permissions>, &'static str> {
        if self.get(name).is_null() {
            return Ok(None);
        }
        let kv = Self::of(Self::of(self.get(name))?.get("kv"))?;
        Ok(Some(Permissions { read: kv.list("read")?, write: kv.list("write")? }))
    }
}

fn text(value: &Value) -> Result<String, &'static str> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        _ => Err(INVALID),
    }
}

/// A user after a PUT: its roles by name.
pub(super) fn user_after_put(name: &str, roles: Option<&Names>) -> String {
    let mut out = String::from("{\"user\":");
    render::text(&mut out, name);
    out.push_str(",\"roles\":");
    names(&mut out, roles);
    out.push('}');
    out
}

/// A user as it is shown: its roles in full, those that do not exist left out.
pub(super) fn user(view: &impl View, user: &User) -> Result<String, ViewError> {
    let mut out = String::from("{\"user\":");
    render::text(&mut out, &user.name);
    let mut shown = Vec::new();
    for name in user.roles() {
        shown.extend(role_named(view, name)?.map(|known| role(&known)));
    }
    if !shown.is_empty() {
        out += &format!(",\"roles\":[{}]", shown.join(","));
    }
    out.push('}');
    Ok(out)
}

/// The list of users.
pub(super) fn users(view: &impl View, users: &[User]) -> Result<String, ViewError> {
    if users.is_empty() {
        return Ok("{\"users\":null}\n".to_owned());
    }
    let shown = users.iter().map(|one| user(view, one)).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("{{\"users\":[{}]}}\n", shown.join(",")))
}

/// A role.
pub(super) fn role(role: &Role) -> String {
    let none = Permissions::default();
    let permissions = role.permissions.as_ref().unwrap_or(&none);
    let mut out = String::from("{\"role\":");
    render::text(&mut out, &role.name);
    out.push_str(",\"permissions\":{\"kv\":{\"read\":");
    names(&mut out, permissions.read.as_ref());
    out.push_str(",\"write\":");
    names(&mut out, permissions.write.as_ref());
    out.push_str("}}}");
    out
}

/// The list of roles.
pub(super) fn roles(roles: &[Role]) -> String {
    let shown: Vec<String> = roles.iter().map(role).collect();
    format!("{{\"roles\":[{}]}}\n", shown.join(","))
}

fn names(out: &mut String, list: Option<&Names>) {
    let Some(list) = list else { return out.push_str("null") };
    out.push('[');
    for (place, name) in list.names.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        render::text(out, name);
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_of(body: &str) -> Result<PutUser, &'static str> {
        read_user(&Bytes::copy_from_slice(body.as_bytes()), "carl")
    }

    #[test]
    fn bodies_are_read_as_go_reads_them() {
        let user = user_of(r#"{"USER":"carl","PassWord":"y","roles":null,"other":1} trailing"#).expect("decodes");
        assert_eq!((user.name.as_str(), user.password.as_str(), user.roles), ("carl", "y", None));
        for body in ["", "{", "[]", r#"{"user":1}"#, r#"{"user":"carl","grant":"x"}"#] {
            assert_eq!(user_of(body), Err(INVALID), "{body}");
        }
        assert_eq!(user_of("null"), Err("User JSON name does not match the name in the URL"));
        let both = r#"{"user":"carl","roles":["a"],"grant":["b"]}"#;
        assert_eq!(user_of(both), Err("User JSON contains both roles and grant/revoke"));
    }

    #[test]
    fn an_empty_grant_makes_a_role_instead_of_changing_one() {
        let read = |body: &'static str| read_role(&Bytes::from_static(body.as_bytes()), "r");
        assert!(read(r#"{"role":"r","grant":{"kv":{}},"permissions":{"kv":{"read":["/a"]}}}"#).is_ok());
        let both = r#"{"role":"r","grant":{"kv":{"read":["/z"]}},"permissions":{"kv":{"read":["/q"]}}}"#;
        assert_eq!(read(both), Err("Role JSON contains both permissions and grant/revoke"));
    }

    #[test]
    fn a_list_that_was_never_given_is_null_and_an_empty_one_is_not() {
        let bare = Role { name: "r".into(), permissions: Some(Permissions::default()) };
        assert_eq!(role(&bare), r#"{"role":"r","permissions":{"kv":{"read":null,"write":null}}}"#);
        let empty = Names::default();
        assert_eq!(user_after_put("a", Some(&empty)), r#"{"user":"a","roles":[]}"#);
        assert_eq!(user_after_put("a", None), r#"{"user":"a","roles":null}"#);
    }
}

//! storage-list and storage-get.

use serde_json::json;

use super::flags::Flags;
use super::{Refusal, Session, usage};

pub(super) fn answer(session: &mut Session<'_>, name: &str, flags: &Flags) -> Result<String, Refusal> {
    let unit = session.world.units.get(&session.context.unit);
    let all = unit.map(|unit| unit.storage.as_slice()).unwrap_or_default();
    if name == "storage-list" {
        let wanted = |name: &str| flags.arg(0).is_none_or(|wanted| wanted == name);
        let ids: Vec<&str> = all.iter().filter(|s| wanted(&s.name)).map(|s| s.id.as_str()).collect();
        return flags.print(&json!(ids), "smart");
    }
    let id = flags.value("s").or(session.context.storage.as_deref());
    let id = id.ok_or_else(|| usage("no storage instance specified"))?;
    let storage = all.iter().find(|storage| storage.id == id);
    let storage = storage.ok_or_else(|| usage(format!("invalid value {id:?} for option -s: storage not found")))?;
    let value = match flags.arg(0) {
        None => json!({"kind": "filesystem", "location": storage.location}),
        Some("kind") => json!("filesystem"),
        Some("location") => json!(storage.location),
        Some(other) => return Err(usage(format!("invalid storage attribute {other:?}"))),
    };
    flags.print(&value, "smart")
}

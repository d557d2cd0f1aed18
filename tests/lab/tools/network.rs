//! network-get, open-port, close-port, opened-ports.

use serde_json::{Map, Value, json};

use super::flags::Flags;
use super::{Refusal, Session, failed, usage};
use crate::context::port_conflict;
use crate::world::PortRange;

pub(super) fn answer(session: &mut Session<'_>, name: &str, flags: &Flags) -> Result<String, Refusal> {
    match name {
        "network-get" => network(session, flags),
        "opened-ports" => opened(session, flags),
        _ => change_port(session, name == "open-port", flags),
    }
}

fn network(session: &Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let binding = flags.arg(0).ok_or_else(|| usage("no arguments specified"))?;
    if flags.relation().is_some() {
        super::relation::relation(session, flags)?;
    }
    let app = session.world.apps.get(&session.context.app);
    if !app.is_some_and(|app| app.charm.has_binding(binding)) {
        return Err(failed(format!("no network config found for binding {binding:?}")));
    }
    let unit = session.world.units.get(&session.context.unit);
    let machine = unit.and_then(|unit| session.world.machines.get(&unit.machine));
    let machine = machine.ok_or_else(|| failed("machine not found"))?;
    let address = &machine.address;
    let subnet = format!("{address}/32");
    let cidr = format!("{}/{}", crate::machine::network_of(address, machine.prefix), machine.prefix);
    let parts = [
        ("bind-address", json!(address)),
        ("primary-address", json!(address)),
        ("ingress-address", json!(address)),
        ("egress-subnets", json!([subnet])),
    ];
    let asked: Vec<&(&str, Value)> = parts.iter().filter(|(name, _)| flags.has(name)).collect();
    let value = match asked.as_slice() {
        [] => json!({
            "bind-addresses": [{
                "mac-address": machine.mac,
                "interface-name": machine.interface,
                "addresses": [{"hostname": "", "value": address, "cidr": cidr}],
            }],
            "egress-subnets": [subnet],
            "ingress-addresses": [address],
        }),
        [(_, one)] => one.clone(),
        many => {
            Value::Object(many.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Map<_, _>>())
        }
    };
    flags.print(&value, "smart")
}

/// `2379`, `2379/tcp`, `4000-4010/udp` or `icmp`.
fn parse_range(text: &str) -> Result<PortRange, Refusal> {
    if text == "icmp" {
        return Ok(PortRange { from: 0, to: 0, protocol: "icmp".to_owned() });
    }
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (from, to) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| usage(format!("invalid port {text:?}: expected a number from 1 to 65535")))
    };
    let range = PortRange { from: number(from)?, to: number(to)?, protocol: protocol.to_lowercase() };
    if range.from > range.to {
        return Err(usage(format!("invalid port range {text}")));
    }
    if !matches!(range.protocol.as_str(), "tcp" | "udp") {
        return Err(usage(format!("invalid protocol {protocol:?}, expected \"tcp\", \"udp\", or \"icmp\"")));
    }
    Ok(range)
}

fn change_port(session: &mut Session<'_>, open: bool, flags: &Flags) -> Result<String, Refusal> {
    let text = flags.arg(0).ok_or_else(|| usage("no port or range specified"))?;
    let range = parse_range(text)?;
    if open && let Some(problem) = port_conflict(session.world, &session.context.unit, &range) {
        return Err(failed(problem));
    }
    session.context.ports.push((open, range));
    Ok(String::new())
}

fn opened(session: &Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let unit = session.world.units.get(&session.context.unit);
    let mut ports = unit.map(|unit| unit.ports.clone()).unwrap_or_default();
    for (open, range) in &session.context.ports {
        if *open {
            ports.insert(range.clone())
        } else {
            ports.remove(range)
        };
    }
    let suffix = if flags.has("endpoints") { " (*)" } else { "" };
    let lines: Vec<String> = ports.iter().map(|range| format!("{range}{suffix}")).collect();
    flags.print(&json!(lines), "smart")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, running};

    #[test]
    fn ports_open_when_the_hook_ends_and_repeating_is_harmless() {
        let mut world = running(1, true);
        for line in
            [["open-port", "2380/tcp"], ["open-port", "2379"], ["open-port", "2379/tcp"], ["close-port", "9/udp"]]
        {
            assert_eq!(call(&mut world, &line).code, 0, "{line:?}");
        }
        assert_eq!(call(&mut world, &["opened-ports"]).stdout, "2379/tcp\n2380/tcp\n");
        assert!(world.units["toy/0"].ports.is_empty());
        let context = world.contexts.remove("toy/0").unwrap();
        context.flush(&mut world, 1).unwrap();
        assert_eq!(world.units["toy/0"].ports.len(), 2);
    }

    #[test]
    fn a_port_of_another_unit_on_the_machine_is_refused() {
        let mut world = running(2, true);
        world.units.get_mut("toy/1").unwrap().machine = 0;
        let range = super::parse_range("2379/tcp").unwrap();
        world.units.get_mut("toy/1").unwrap().ports.insert(range);
        let reply = call(&mut world, &["open-port", "2379/tcp"]);
        let text = "cannot open 2379/tcp (unit \"toy/0\"): port range conflicts with 2379/tcp (unit \"toy/1\")";
        assert_eq!((reply.code, reply.stderr), (1, format!("ERROR {text}\n")));
    }

    #[test]
    fn network_get_has_jujus_shape() {
        let mut world = running(1, true);
        let machine = world.machines.get_mut(&0).unwrap();
        machine.address = "10.0.7.5".to_owned();
        let reply = call(&mut world, &["network-get", "peer", "--format", "json"]);
        let value: serde_json::Value = serde_json::from_str(&reply.stdout).unwrap();
        assert_eq!(value["bind-addresses"][0]["addresses"][0]["cidr"], "10.0.7.0/24");
        assert_eq!(value["egress-subnets"][0], "10.0.7.5/32");
        assert_eq!(call(&mut world, &["network-get", "peer", "--bind-address"]).stdout, "10.0.7.5\n");
        let reply = call(&mut world, &["network-get", "nothing"]);
        assert_eq!(reply.stderr, "ERROR no network config found for binding \"nothing\"\n");
    }
}

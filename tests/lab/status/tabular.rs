//! The tables of `juju status`, 3.x layout: Model, App, Unit, Machine and, if asked for, relations.

use super::report::{Report, UnitReport};
use crate::world::unit_number;

/// Juju cuts messages here.
const MAX_MESSAGE: usize = 120;

/// Renders the report.
pub fn render(report: &Report, relations: bool) -> String {
    let mut sections = vec![table(&[
        row(["Model", "Controller", "Cloud/Region", "Version", "SLA", "Timestamp"]),
        row([
            &report.model.name,
            &report.model.controller,
            &format!("{}/localhost", report.model.cloud),
            &report.model.version,
            "unsupported",
            &report.model.timestamp,
        ]),
    ])];
    if report.applications.is_empty() {
        return sections.concat() + "\nModel \"lab\" is empty.\n";
    }
    sections.push(apps(report));
    sections.push(units(report));
    sections.push(machines(report));
    if relations && !report.relations.is_empty() {
        let mut rows = vec![row(["Integration provider", "Requirer", "Interface", "Type", "Message"])];
        rows.extend(report.relations.iter().map(|r| row([&r.provider, &r.requirer, &r.interface, &r.kind, ""])));
        sections.push(table(&rows));
    }
    sections.retain(|section| !section.is_empty());
    sections.join("\n")
}

fn apps(report: &Report) -> String {
    let mut rows = vec![row(["App", "Version", "Status", "Scale", "Charm", "Channel", "Rev", "Exposed", "Message"])];
    for (name, app) in &report.applications {
        let alive = app.units.values().filter(|unit| unit.juju_status.current != "lost").count();
        let scale = if alive == app.units.len() { alive.to_string() } else { format!("{alive}/{}", app.units.len()) };
        let status = &app.application_status;
        let revision = app.charm_rev.to_string();
        rows.push(row([
            name,
            &app.version,
            &status.current,
            &scale,
            &app.charm,
            "",
            &revision,
            "no",
            &cut(&status.message),
        ]));
    }
    table(&rows)
}

fn units(report: &Report) -> String {
    let header = row(["Unit", "Workload", "Agent", "Machine", "Public address", "Ports", "Message"]);
    let mut units: Vec<(&String, &UnitReport)> = report.applications.values().flat_map(|app| &app.units).collect();
    if units.is_empty() {
        return String::new();
    }
    units.sort_by_key(|(name, _)| (name.split('/').next().map(str::to_owned), unit_number(name)));
    let mut rows = vec![header];
    for (name, unit) in units {
        let name = if unit.leader { format!("{name}*") } else { name.clone() };
        let message = match hook_of(&unit.juju_status.message) {
            Some(hook) if unit.juju_status.current == "executing" => {
                format!("({hook}) {}", unit.workload_status.message)
            }
            _ => unit.workload_status.message.clone(),
        };
        rows.push(row([
            &name,
            &unit.workload_status.current,
            &unit.juju_status.current,
            &unit.machine,
            &unit.public_address,
            &unit.open_ports.join(","),
            &cut(message.trim_end()),
        ]));
    }
    table(&rows)
}

/// `running install hook` → `install`.
fn hook_of(message: &str) -> Option<&str> {
    let text = message.strip_prefix("running ")?;
    text.strip_suffix(" hook").or_else(|| text.strip_prefix("action "))
}

fn machines(report: &Report) -> String {
    let mut rows = vec![row(["Machine", "State", "Address", "Inst id", "Base", "AZ", "Message"])];
    for (id, machine) in &report.machines {
        rows.push(row([
            &id.to_string(),
            &machine.juju_status.current,
            &machine.dns_name,
            &machine.instance_id,
            "host release",
            "",
            &machine.machine_status.message,
        ]));
    }
    if rows.len() == 1 { String::new() } else { table(&rows) }
}

fn cut(message: &str) -> String {
    if message.chars().count() <= MAX_MESSAGE {
        return message.to_owned();
    }
    message.chars().take(MAX_MESSAGE - 3).chain("...".chars()).collect()
}

fn row<'a>(cells: impl IntoIterator<Item = &'a (impl AsRef<str> + ?Sized + 'a)>) -> Vec<String> {
    cells.into_iter().map(|cell| cell.as_ref().to_owned()).collect()
}

/// Columns as wide as their widest cell, two spaces apart; numbers of units are right-aligned in Juju, the rest left.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).zip(&rows[0]).map(|((cell, width), header)| {
            if matches!(header.as_str(), "Scale" | "Rev") {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::report;
    use super::*;
    use crate::world::lifecycle::tests::deployed;
    use crate::world::{PortRange, StatusInfo};

    #[test]
    fn the_unit_table_shows_leader_ports_and_message() {
        let mut world = deployed(2);
        world.apps.get_mut("toy").unwrap().lease.claim("toy/1", 0, 60_000);
        for machine in world.machines.values_mut() {
            machine.state = crate::world::MachineState::Started;
            machine.address = format!("10.0.0.{}", machine.id);
        }
        let unit = world.units.get_mut("toy/1").unwrap();
        unit.workload = StatusInfo::new("active", "(leader) cluster is healthy", 0);
        for port in [2380, 2379] {
            unit.ports.insert(PortRange { from: port, to: port, protocol: "tcp".to_owned() });
        }
        world.units.get_mut("toy/0").unwrap().executing = Some("running install hook".to_owned());
        let text = render(&report::report(&world, "nspawn", 1_000), false);
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
        let columns =
            |text: String| text.split("  ").filter(|c| !c.is_empty()).map(|c| c.trim().to_owned()).collect::<Vec<_>>();
        assert_eq!(
            columns(line("toy/1*")),
            ["toy/1*", "active", "idle", "1", "10.0.0.1", "2379/tcp,2380/tcp", "(leader) cluster is healthy"]
        );
        assert!(line("toy/0 ").ends_with("(install) waiting for machine"));
        assert!(line("Unit").starts_with("Unit    Workload"));
        assert!(!text.contains("Integration provider"));
    }

    #[test]
    fn long_messages_are_cut_to_120_characters() {
        assert_eq!(cut(&"x".repeat(200)).len(), 120);
        assert_eq!(cut("short"), "short");
    }
}

//! Tests only: values that others could write, sent through every door of the charm, and what must hold of
//! everything that leaves it.
//!
//! A door is whatever reads text that the charm did not write. What leaves goes either to a machine (a file,
//! a command line, a databag) or to people (status, log, action result). No machine may find a letter in it
//! that a shell, systemd, YAML or etcd's own lists would act on; no terminal a character that does not show.

use std::collections::BTreeMap;
use std::process::Command;

use etcd_charm::client::Member as Listed;
use etcd_charm::pki;
use serde_json::{Value, json};

use super::*;
use crate::act;
use crate::actions::{credentials, rotate};
use crate::answers;
use crate::bags::{AppBag, AppChange, Bag, UnitBag};
use crate::cluster;
use crate::event::Event;
use crate::facts::{Facts, Side, Storage, Store, Unit};
use crate::host;
use crate::observe;
use crate::plan::application::overall;
use crate::plan::tests::healthy;
use crate::plan::{Action, plan};
use crate::secret::SecretContent;

/// Each alone is a command, an option, another line, another item or another place to some reader.
const VALUES: &[&str] = &[
    "$(touch PWNED)",
    "`touch PWNED`",
    "${PWNED}",
    "PWNED;touch PWNED",
    "PWNED|touch PWNED",
    "PWNED&touch PWNED",
    "PWNED>PWNED",
    "PWNED\ntouch PWNED\n",
    "PWNED\r\nexport PWNED=1",
    "PWNED\0PWNED",
    "PWNED\u{1b}]0;PWNED\u{7}",
    "PWNED\u{202e}PWNED",
    "PWNED\u{2028}PWNED",
    "PWNED\" \"PWNED",
    "PWNED' 'PWNED",
    "PWNED\\",
    "PWNED %h",
    "--application",
    "-PWNED",
    "PWNED,PWNED=https://PWNED:1",
    "PWNED: {PWNED: PWNED}",
    "# PWNED",
    "../../PWNED",
    "/PWNED/../PWNED",
    "https://$(touch PWNED):2379",
    "https://PWNED`id`:2379",
    "https://10.0.0.1:2379\nexport PWNED=1",
    "https://10.0.0.1:2379\";touch PWNED;\"",
    "https://10.0.0.1:2379/$(touch PWNED)",
    "https://10.0.0.1:2379?$(touch PWNED)",
    "https://10.0.0.1:2379#$(touch PWNED)",
    "https://PWNED:PWNED@10.0.0.1:2379",
    "https://10.0.0.1:2379,https://$(touch PWNED):1",
    "etcd1=https://10.0.0.1:2380,etcd2=https://$(touch PWNED):2380",
    "etcd/$(touch PWNED)",
    "$(touch PWNED)/1",
    "etcd/1 $(touch PWNED)",
    "1 $(touch PWNED)",
    "-----BEGIN CERTIFICATE-----\n$(touch PWNED)\n-----END CERTIFICATE-----\n",
    "ПРИВЕТ",
    "",
];

/// Alone, and around what is good there.
fn variants(good: &str) -> Vec<String> {
    let long = "PWNED".repeat(30_000);
    let around = |bad: &str| [bad.to_owned(), format!("{good}{bad}"), format!("{bad}{good}"), format!("{good}\n{bad}")];
    VALUES.iter().flat_map(|bad| around(bad)).chain([long]).collect()
}

/// What leaves.
#[derive(Default)]
struct Out {
    machine: Vec<String>,
    people: Vec<String>,
}

impl Out {
    fn machine(texts: impl IntoIterator<Item = String>) -> Self {
        Out { machine: texts.into_iter().collect(), people: Vec::new() }
    }

    fn people(texts: impl IntoIterator<Item = String>) -> Self {
        Out { people: texts.into_iter().collect(), machine: Vec::new() }
    }

    fn check(&self, door: &str, value: &str) {
        for text in &self.machine {
            let sound = |c: char| c.is_ascii_alphanumeric() || "./:-_,=[]@+ ".contains(c);
            assert!(text.chars().all(sound), "{door}: {value:?} leaves as {text:?}");
            assert!(!text.starts_with('-') && text.len() < 64 << 10, "{door}: {value:?} leaves as {text:?}");
        }
        for text in &self.people {
            let line = Line::several(text);
            let shows = |c: char| c == '\n' || !c.is_control() && !('\u{2028}'..='\u{202e}').contains(&c);
            assert!(line.text().chars().all(shows), "{door}: {value:?} is shown as {:?}", line.text());
            assert!(!Line::of(text).text().contains('\n') && !line.text().starts_with('-'), "{door}: {value:?}");
        }
    }
}

/// Everything that plans made of these facts let out.
fn plans(facts: &Facts) -> Out {
    let mut out = Out::default();
    for event in [Event::Reconcile, Event::Leaving, Event::Detaching, Event::Stop, Event::Remove] {
        let step = plan(facts, &event);
        out.people.extend([true, false].map(|leader| step.status.sentence(leader)));
        out.people.extend(overall(facts, &step.status).map(|overall| overall.sentence));
        for action in &step.actions {
            out.people.extend(act::describe(action));
            out.machine.extend(written(action));
        }
    }
    out
}

/// What an action writes to a file, a tool or the cluster; certificates apart, which the next test looks at.
fn written(action: &Action) -> Vec<String> {
    let no_pem = |bag: Bag| bag.into_values().filter(|text| !text.contains("BEGIN CERT") && !text.contains("pem"));
    match action {
        Action::WriteConfig(config) => strings(&serde_json::to_value(config).unwrap()),
        Action::MakeRequest { common_name, names, .. } => [names.clone(), vec![common_name.clone()]].concat(),
        Action::Issue { names, .. } => names.clone(),
        Action::StartService { generation } | Action::RestartService { generation } => vec![generation.to_string()],
        Action::AddLearner { peer_url, .. } | Action::UpdatePeerUrl { peer_url, .. } => vec![peer_url.to_string()],
        Action::PublishUnit(bag) => {
            no_pem(UnitBag { requests: BTreeMap::new(), reports: BTreeMap::new(), ..(**bag).clone() }.write()).collect()
        }
        Action::PublishApp(AppChange::Trust(_)) => Vec::new(),
        Action::PublishApp(change) => no_pem(change.write()).collect(),
        Action::SetVersion(version) => vec![version.to_string()],
        _ => Vec::new(),
    }
}

fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => list.iter().flat_map(strings).collect(),
        Value::Object(map) => map.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

fn unit(number: u32) -> Unit {
    Unit::new("etcd", number)
}

/// Three members; etcd/1 leads, etcd/4 has none yet and asks for one.
fn facts() -> Facts {
    let mut facts = healthy(&[1, 2, 3]);
    facts.goal.as_mut().unwrap().insert(unit(4), crate::facts::Life::Alive);
    facts
}

/// One door: its name, what a good text looks like there, and what becomes of another.
type Door = (String, String, Box<dyn Fn(&str) -> Out>);

fn door(name: &str, good: &str, through: impl Fn(&str) -> Out + 'static) -> Door {
    (name.to_owned(), good.to_owned(), Box::new(through))
}

/// A unit's databag: read, planned with as another's and as our own, and listed as endpoints.
fn unit_bag_doors() -> Vec<Door> {
    let full = UnitBag { restart: Some("g".into()), ..facts().peer.unwrap().own };
    let keys = full.write().into_iter().filter(|(key, _)| !key.ends_with("-request"));
    let through = |key: String, full: UnitBag| {
        move |value: &str| {
            let mut bag = full.write();
            bag.insert(key.clone(), value.to_owned());
            let mut read = UnitBag::read(&bag);
            let mut out = Out::machine(read.write().into_values());
            read.requests.clone_from(&full.requests);
            for request in read.requests.values_mut() {
                request.says.names.clone_from(&read.names);
                request.says.subject = value.to_owned();
            }
            for (number, member) in [(2, Some(2)), (4, None)] {
                let mut facts = facts();
                let bag = UnitBag { member: read.member.and(member), ..read.clone() };
                facts.peer.as_mut().unwrap().units.insert(unit(number), bag);
                out.machine.extend(observe::published_endpoints(&facts).iter().map(ToString::to_string));
                let planned = plans(&facts);
                out.machine.extend(planned.machine);
                out.people.extend(planned.people);
            }
            out
        }
    };
    keys.map(|(key, good)| door(&format!("unit databag, {key}"), &good, through(key.clone(), full.clone()))).collect()
}

/// The application's databag, with real authorities.
fn app_bag_doors() -> Vec<Door> {
    let made = SecretContent::make("etcd", 100).unwrap();
    let lines = |list: &str| AppChange::Join(unit(1), list.into()).write();
    let mut bag = AppChange::Trust(made.trust().unwrap()).write();
    bag.extend(AppChange::Bootstrap(unit(1)).write());
    bag.extend(lines("etcd1=https://10.0.0.1:2380,etcd2=https://10.0.0.2:2380"));
    bag.extend(AppChange::Turn(Some((unit(1), "g".into()))).write());
    bag.extend(AppChange::Deadline(Side::Server, Some(200)).write());
    bag.extend(AppChange::Certificate(unit(1), Side::Server, made.server.issuing.certificate.clone()).write());
    bag.retain(|_, value| !value.is_empty());
    let through = |key: String, bag: Bag| {
        move |value: &str| {
            let mut bag = bag.clone();
            bag.insert(key.clone(), value.to_owned());
            let app = AppBag::read(&bag, "etcd");
            let mut out = Out::default();
            if let Some(trust) = &app.trust {
                for side in Side::BOTH {
                    assert_eq!(trust.of(side).bundle().lines().filter(|line| line.contains(' ')).count() % 2, 0);
                    out.machine.extend(trust.of(side).bundle().lines().map(|line| line.trim_matches('-').to_owned()));
                }
            }
            let pems = app.certificates.values().flat_map(|one| one.pem.lines());
            out.machine.extend(pems.map(|line| line.trim_matches('-').to_owned()));
            // A first start, and a member that serves.
            for fresh in [true, false] {
                let mut facts = facts();
                let peer = facts.peer.as_mut().unwrap();
                let certificates = peer.app.certificates.clone();
                peer.app = AppBag { certificates, ..app.clone() };
                if fresh {
                    peer.own.member = None;
                    facts.host.data = false;
                    facts.host.config = None;
                    facts.host.service = crate::facts::Service::Stopped;
                    facts.store = Store::Unreachable;
                }
                let planned = plans(&facts);
                out.machine.extend(planned.machine);
                out.people.extend(planned.people);
            }
            out
        }
    };
    let doors = bag.clone().into_iter();
    doors.map(|(key, good)| door(&format!("application databag, {key}"), &good, through(key, bag.clone()))).collect()
}

/// The member list of the daemon.
fn member_list_doors() -> Vec<Door> {
    let listed = |name: &str, peer: &str, client: &str| Listed {
        id: 2,
        name: name.to_owned(),
        peer_urls: vec![peer.to_owned()],
        client_urls: vec![client.to_owned()],
        is_learner: false,
    };
    let through = |member: Listed| {
        let mut out = Out::machine(cluster::client_urls(&member).iter().map(ToString::to_string));
        for reachable in [true, false] {
            let mut facts = facts();
            let Store::Reachable(seen) = &mut facts.store else { panic!("a cluster that answers") };
            seen.members[1] = cluster::fact(&member, reachable, reachable);
            let planned = plans(&facts);
            out.machine.extend(planned.machine);
            out.people.extend(planned.people);
        }
        out
    };
    let (peer, client) = ("https://10.0.0.2:2380", "https://10.0.0.2:2379");
    vec![
        door("member list, name", "etcd2", move |value| through(listed(value, peer, client))),
        door("member list, peer URL", peer, move |value| through(listed("", value, client))),
        door("member list, client URL", client, move |value| through(listed("etcd2", peer, value))),
        door("member list, version", "3.7.1", |value| {
            Out::machine(Version::parse(value).iter().map(ToString::to_string))
        }),
        door("a member's refusal", "etcdserver: no", |value| Out::people([value.to_owned()])),
    ]
}

/// Juju's hook tools and environment.
fn juju_doors() -> Vec<Door> {
    let options = ["port", "auto-compaction-mode", "auto-compaction-retention", "log-level", "quota-backend-bytes"];
    let option = |name: &'static str| {
        move |value: &str| {
            let mut facts = facts();
            facts.options.insert(name.to_owned(), json!(value));
            plans(&facts)
        }
    };
    let mut doors: Vec<Door> =
        options.into_iter().map(|name| door(&format!("option {name}"), "1", option(name))).collect();
    doors.extend([
        door("unit name", "etcd/1", |value| Out::machine(Unit::parse(value).map(|unit| unit.to_string()))),
        door("storage id", "data/0", |value| Out::machine(StorageId::parse(value).map(String::from))),
        door("relation id", "peer:0", |value| match answers::relation(&json!([value])) {
            Ok(id) => Out::machine(id.map(String::from)),
            Err(error) => Out::people([error.to_string()]),
        }),
        door("secret id", "secret:9m4e2mr0ui3e8a215n4g", |value| {
            match answers::secret_info(&json!({value: {"revision": 1}})) {
                Ok(info) => Out::machine(info.map(|info| info.id.to_string())),
                Err(error) => Out::people([error.to_string()]),
            }
        }),
        door("goal-state", "etcd/1", |value| match answers::goal(&json!({"units": {value: {}}}), "etcd") {
            Ok(goal) => Out::machine(goal.keys().map(Unit::to_string)),
            Err(error) => Out::people([error.to_string()]),
        }),
        door("relation-list", "etcd/1", |value| match answers::units(&json!([value])) {
            Ok(units) => Out::machine(units.iter().map(Unit::to_string)),
            Err(error) => Out::people([error.to_string()]),
        }),
        door("network-get", "10.0.0.1", |value| {
            let answer = json!({"bind-addresses": [{"addresses": [{"value": value}]}], "ingress-addresses": [value]});
            let found = answers::addresses(&answer);
            Out::machine(found.bind.iter().chain(&found.ingress).map(ToString::to_string))
        }),
        door("storage location", "/srv/data/0", |value| {
            let Some(location) = Folder::parse(value) else { return Out::default() };
            let text = location.for_systemd();
            assert!(text.starts_with('"') && text.ends_with('"') && !text[1..text.len() - 1].contains(" \""));
            let mut facts = facts();
            facts.storage = Some(Storage { id: "data/0".into(), location });
            Out::people(plans(&facts).people)
        }),
        door("stderr of a tool", "ERROR no", |value| Out::people([value.to_owned()])),
        door("host name", "box", |value| Out::machine(observe::names_of(value, "10.0.0.5 box"))),
        door("/etc/hosts", "10.0.0.5 box", |value| Out::machine(observe::names_of("box", value))),
    ]);
    doors
}

/// An action's parameters: refused with a short line that shows, or used.
fn action_doors() -> Vec<Door> {
    let refused = |refusal: String| {
        assert!(refusal.len() < 400, "{refusal}");
        assert_eq!(Line::of(&refusal).text(), refusal);
        Out::people([refusal])
    };
    let rotation = |name: &'static str| {
        move |value: &str| match rotate::check(&BTreeMap::from([(name.to_owned(), json!(value))])) {
            Ok(_) => Out::default(),
            Err(refusal) => refused(refusal),
        }
    };
    vec![
        door("parameter cn", "etcd-client", move |value| match credentials::check(Some(&json!(value)), None) {
            Ok(wish) => Out::machine([wish.name.to_string()]),
            Err(refusal) => refused(refusal),
        }),
        door("parameter days", "7", move |value| {
            credentials::check(None, Some(&json!(value))).map_or_else(refused, |_| Out::default())
        }),
        door("parameter authority", "client", rotation("authority")),
        door("parameter grace-days", "7", rotation("grace-days")),
        door("parameter finish", "true", rotation("finish")),
    ]
}

/// Files on disk, and the secret.
fn file_doors() -> Vec<Door> {
    let settings = serde_json::to_value(facts().host.config.unwrap()).unwrap();
    let keys: Vec<(String, String)> = settings
        .as_object()
        .unwrap()
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    let through = |key: String, settings: Value| {
        move |value: &str| {
            let mut settings = settings.clone();
            settings[&key] = json!(value);
            let Some(config) = host::read_config(&settings.to_string()) else { return Out::default() };
            let mut out = Out::default();
            if key != "data-dir" {
                out.machine = strings(&serde_json::to_value(&config).unwrap());
            }
            let mut facts = facts();
            facts.host.config = Some(config);
            out.people = plans(&facts).people;
            out
        }
    };
    let mut doors: Vec<Door> =
        keys.into_iter().map(|(key, good)| door(&key.clone(), &good, through(key, settings.clone()))).collect();
    let content = SecretContent::make("etcd", 100).unwrap().write();
    doors.push(door("secret, cluster-token", "etcd-1", move |value| {
        let mut content = content.clone();
        content.insert("cluster-token".to_owned(), value.to_owned());
        match SecretContent::read(&content) {
            Ok(secret) => Out::machine([secret.trust().unwrap().token.to_string()]),
            Err(why) => Out::people([why]),
        }
    }));
    doors.push(door("generation on disk", "0123", |value| Out::machine(Word::parse(value).map(String::from))));
    doors
}

#[test]
fn no_value_of_others_leaves_by_any_door_as_more_than_it_is() {
    let doors: Vec<Door> =
        [unit_bag_doors(), app_bag_doors(), member_list_doors(), juju_doors(), action_doors(), file_doors()]
            .into_iter()
            .flatten()
            .collect();
    let mut cases = 0;
    for (name, good, through) in &doors {
        through(good).check(name, good);
        for value in variants(good) {
            through(&value).check(name, &value);
            cases += 1;
        }
    }
    println!("{} doors, {cases} cases", doors.len());
    assert!(doors.len() >= 50 && cases > 8_000, "{} doors, {cases} cases", doors.len());
}

#[test]
fn the_file_that_operators_source_runs_nothing_whatever_units_and_members_say() {
    let folder = tempfile::tempdir().unwrap();
    for value in variants("https://10.0.0.2:2379") {
        let mut facts = facts();
        let bag = Bag::from([("client-url".to_owned(), value.clone()), ("member".to_owned(), "2".to_owned())]);
        facts.peer.as_mut().unwrap().units.insert(unit(2), UnitBag::read(&bag));
        let mut urls = observe::published_endpoints(&facts);
        let listed = Listed {
            id: 2,
            name: String::new(),
            peer_urls: Vec::new(),
            client_urls: vec![value.clone()],
            is_learner: false,
        };
        urls.extend(cluster::client_urls(&listed));
        let wanted = credentials::list(&urls);
        let text = credentials::environment(&[credentials::Api::V2, credentials::Api::V3], &wanted);
        std::fs::write(folder.path().join("env"), text).unwrap();
        let script = ". ./env && printf %s \"$ETCDCTL_ENDPOINTS $ETCDCTL_ENDPOINT\"";
        let run = Command::new("sh").args(["-eu", "-c", script]).current_dir(folder.path()).output().unwrap();
        assert!(run.status.success(), "{value:?}: {}", String::from_utf8_lossy(&run.stderr));
        assert_eq!(String::from_utf8_lossy(&run.stdout), format!("{wanted} {wanted}"), "{value:?}");
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["env"], "{value:?} was run");
    }
}

#[test]
fn a_request_for_the_name_of_a_user_is_not_signed_for_a_unit() {
    let mut facts = facts();
    let bag = facts.peer.as_mut().unwrap().units.get_mut(&unit(2)).unwrap();
    for request in bag.requests.values_mut() {
        request.says.public_key.push('x');
    }
    let signs = |facts: &Facts| {
        let step = plan(facts, &Event::Reconcile);
        step.actions.iter().filter(|action| matches!(action, Action::Issue { unit, .. } if unit.number == 2)).count()
    };
    assert_eq!(signs(&facts), 2, "a new key is certified");
    let bag = facts.peer.as_mut().unwrap().units.get_mut(&unit(2)).unwrap();
    bag.requests.values_mut().for_each(|request| request.says.subject = "root".to_owned());
    assert_eq!(signs(&facts), 0);
}

#[test]
fn certificates_are_written_without_what_stands_around_them() {
    let made = SecretContent::make("etcd", 100).unwrap();
    let mut bag = AppChange::Trust(made.trust().unwrap()).write();
    let other = pki::make_authority("somebody else", 100).unwrap().certificate;
    let plain = AppBag::read(&bag, "etcd").trust.unwrap();
    for text in bag.values_mut().filter(|text| text.contains("BEGIN")) {
        *text = format!("$(touch PWNED)\n{text}{other}# PWNED\n");
    }
    assert_eq!(AppBag::read(&bag, "etcd").trust.unwrap(), plain, "a second authority is not smuggled in");
}

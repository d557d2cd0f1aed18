//! What the fuzz target of v2 does with its bytes; see [`crate::fuzzing`].

use std::ops::ControlFlow;

use bytes::Bytes;
use http::Method;
use prost::Message;

use super::auth::fuzzing as auth_bodies;
use super::render;
use super::request::{self, KeyRequest};
use crate::model::command::Command as Replicated;
use crate::model::effects::Response;
use crate::model::fuzzing::World;
use crate::model::v2::auth::types::{Change, Command as AuthCommand, Switch};
use crate::model::v2::auth::{self as model, Want};
use crate::model::v2::types::{Command, Error, Outcome, UnixNanos, Verb};
use crate::model::v2::{self, Budget};
use crate::treefile::{Header, Lines, Node, Part, Writer};

/// The clock when the first line is read; each line takes a second.
const START: UnixNanos = 1_700_000_000_000_000_000;
const SECOND: UnixNanos = 1_000_000_000;
/// Nodes a read may look at.
const BUDGET: Budget = Budget(256);

/// Requests, one a line, of up to four fields: method, path, query, form. Besides HTTP's methods there are `USER` and
/// `ROLE` with a name and a body, `DROPUSER` and `DROPROLE`, `ON` and `OFF` for authentication, `BASIC` with a header,
/// and `EXPIRE`.
pub(crate) fn v2(data: &[u8]) {
    let mut world = World::default();
    let mut now = START;
    for line in data.split(|byte| *byte == b'\n') {
        let mut fields = line.splitn(4, |byte| *byte == b'\t');
        let mut next = || fields.next().unwrap_or_default();
        let (method, path, query, form) = (next(), next(), next(), next());
        let path = String::from_utf8_lossy(path);
        let change = |change| Some(AuthCommand { change: Some(change) });
        match method {
            b"GET" => key(&mut world, &Method::GET, &path, query, None, now),
            b"PUT" => key(&mut world, &Method::PUT, &path, query, Some(form), now),
            b"POST" => key(&mut world, &Method::POST, &path, query, Some(form), now),
            b"DELETE" => key(&mut world, &Method::DELETE, &path, query, None, now),
            b"EXPIRE" => drop(run(&mut world, Command { verb: Verb::Expire as i32, now, ..Command::default() })),
            b"USER" => auth(&mut world, auth_bodies::user(&path, &Bytes::copy_from_slice(query))),
            b"ROLE" => auth(&mut world, auth_bodies::role(&path, &Bytes::copy_from_slice(query))),
            b"DROPUSER" => auth(&mut world, change(Change::DeleteUser(path.into_owned()))),
            b"DROPROLE" => auth(&mut world, change(Change::DeleteRole(path.into_owned()))),
            b"ON" => auth(&mut world, change(Change::Switch(Switch { enable: true }))),
            b"OFF" => auth(&mut world, change(Change::Switch(Switch { enable: false }))),
            b"BASIC" => drop((auth_bodies::is_basic(query), request::decoded(&path))),
            _ => {}
        }
        now += SECOND;
    }
    exports(&world, now);
}

fn key(world: &mut World, method: &Method, path: &str, query: &[u8], form: Option<&[u8]>, now: UnixNanos) {
    let request = match KeyRequest::parse(method, path, &String::from_utf8_lossy(query), form) {
        Ok(request) => request,
        Err(bad) => {
            let refusal = Error { code: bad.code, cause: bad.cause.into(), index: 0 };
            return json(&render::error(&refusal));
        }
    };
    let cleaned = request::clean(&request.path).expect("a clean path");
    assert_eq!(cleaned, request.path, "a clean path is clean");
    let want = Want { path: &request.asked_path(), recursive: request.recursive, write: method != Method::GET };
    let _may = model::may(&world.view, None, want).expect("a view in memory");
    if method != Method::GET {
        run(world, request.command(now));
        return;
    }
    let found = v2::get(&world.view, &request.path, request.recursive, now, BUDGET).expect("a view in memory");
    match found {
        Ok(Some(found)) => json(&render::found(&found.node)),
        Ok(None) => {}
        Err(refusal) => json(&render::error(&refusal)),
    }
    if let Some(event) = v2::event_at(&world.view, request.wait_index).expect("a view in memory") {
        json(&render::event(&event, request.no_value_on_success));
    }
}

fn auth(world: &mut World, change: Option<AuthCommand>) {
    if change.is_some() {
        run(world, Command { verb: Verb::Auth as i32, auth: change, ..Command::default() });
    }
}

fn run(world: &mut World, command: Command) -> Outcome {
    let before = v2::index(&world.view).expect("a view in memory");
    let effects = world.run(Replicated::V2(command.encode_to_vec().into()));
    let Ok(Response::V2(outcome)) = effects.outcome else { panic!("not an answer of v2: {:?}", effects.outcome) };
    if let Some(event) = &outcome.event {
        json(&render::event(event, false));
        json(&render::event(event, true));
    }
    if let Some(refusal) = &outcome.error {
        json(&render::error(refusal));
        assert!(effects.v2.is_empty() && outcome.index == before, "a refusal changed something");
    }
    *outcome
}

/// The whole tree as a file, which must be one that is taken in again.
fn exports(world: &World, now: UnixNanos) {
    let header = Header { all_hidden: true, ..Header::new("/", 1, "c".to_owned(), now) };
    let mut writer = Writer::new(Vec::new(), &header).expect("a file in memory");
    let walked = v2::walk(&world.view, b"/", &mut |path, stored| {
        let value = (!stored.dir).then(|| stored.value.to_vec());
        let node = Node { key: path.to_vec(), value, expiration: stored.expiration };
        writer.node(&node).expect("every node of a tree can be exported");
        ControlFlow::Continue(())
    });
    walked.expect("a view in memory").expect("there is always a root");
    let file = writer.finish().expect("a file in memory");
    let mut lines = Lines::default();
    let mut parts = file.split_inclusive(|byte| *byte == b'\n').map(|line| lines.take(&line[..line.len() - 1]));
    let last = parts.try_fold(None, |_, part| part.map(Some)).expect("our own file");
    assert!(matches!(last, Some(Part::End(_))), "a file without an end");
}

fn json(text: &str) {
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        panic!("{error} in {text}");
    }
}

//! `rotate-ca`: begins to replace an authority, or ends the time its clients have.
//!
//! The action takes the first step only; the hooks of whoever leads take the others, each when every
//! member has followed (see `plan/rotation.rs`).

use std::collections::BTreeMap;

use serde_json::Value;

use super::Answer;
use crate::act::{CharmError, rotate};
use crate::facts::Side;
use crate::host::Host;
use crate::juju::Juju;
use crate::observe::observe;
use crate::pending::Pending;
use crate::plan::rotation::{GRACE_DAYS, MAX_GRACE_DAYS, begin, finish};

/// What the operator asked for, checked.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    /// Begin to replace these sides' authorities.
    Begin {
        /// Which.
        sides: Vec<Side>,
        /// See [`GRACE_DAYS`].
        grace_days: i64,
    },
    /// End the clients' time now.
    Finish,
}

/// Begins or ends.
///
/// # Errors
/// [`CharmError`]; nothing was changed then.
pub fn run(juju: &Juju, host: &Host) -> Result<Answer, CharmError> {
    let wish = check(&juju.parameters()?).map_err(CharmError::Parameter)?;
    let sight = observe(juju, host, &Pending::default(), false)?;
    let application = &sight.facts.unit.application;
    let mut answer = Answer::default();
    match wish {
        Wish::Begin { sides, grace_days } => {
            let steps = begin(&sight.facts, &sides, grace_days).map_err(CharmError::Parameter)?;
            rotate(&sight, &steps, &mut answer.pending)?;
            let words: Vec<&str> = sides.iter().map(|side| side.authority_word()).collect();
            answer.result("authority", words.join(","));
            let mut message = "every unit will trust the old and the new authority".to_owned();
            if sides.contains(&Side::Server) {
                answer.result("grace-days", grace_days);
                message.push_str(&format!(
                    "; then the leader's status asks for new client credentials: fetch them for every client with \
                     generate-client-certificates, and put the new ca.pem in place with them. Old credentials work \
                     for {grace_days} days from then, or until: juju run {application}/leader rotate-ca finish=true"
                ));
            }
            if sides.contains(&Side::Peer) {
                message.push_str("; the peer authority is replaced without further action");
            }
            answer.result("message", message);
        }
        Wish::Finish => {
            answer.pending.publish_app(&finish(&sight.facts).map_err(CharmError::Parameter)?);
            answer.result("authority", "client");
            answer
                .result("message", "the old client authority is being dropped: credentials it signed will be refused");
        }
    }
    answer.relation = sight.relation;
    Ok(answer)
}

/// Checks the parameters.
///
/// # Errors
/// What is wrong with one, without repeating it.
pub fn check(parameters: &BTreeMap<String, Value>) -> Result<Wish, String> {
    let given = |name: &str| parameters.get(name).filter(|value| !value.is_null());
    let sides = match given("authority").map(Value::as_str) {
        None | Some(Some("both")) => Side::BOTH.to_vec(),
        Some(Some("client")) => vec![Side::Server],
        Some(Some("peer")) => vec![Side::Peer],
        Some(_) => return Err("authority is not one of: client, peer, both".to_owned()),
    };
    let finishes = match given("finish") {
        None => false,
        Some(value) => value.as_bool().ok_or("finish is neither true nor false".to_owned())?,
    };
    if finishes {
        let named = given("authority").is_some();
        return if named && sides == [Side::Peer] {
            Err("the peer authority has no clients: its replacement ends by itself".to_owned())
        } else {
            Ok(Wish::Finish)
        };
    }
    let grace_days = match given("grace-days") {
        None => GRACE_DAYS,
        Some(value) => value
            .as_i64()
            .filter(|days| (0..=MAX_GRACE_DAYS).contains(days))
            .ok_or(format!("grace-days is not a whole number from 0 to {MAX_GRACE_DAYS}"))?,
    };
    Ok(Wish::Begin { sides, grace_days })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wish(pairs: &[(&str, Value)]) -> Result<Wish, String> {
        check(&pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    #[test]
    fn both_authorities_are_meant_unless_one_is_named() {
        assert_eq!(wish(&[]), Ok(Wish::Begin { sides: Side::BOTH.to_vec(), grace_days: GRACE_DAYS }));
        let client = [("authority", json!("client")), ("grace-days", json!(0)), ("finish", json!(false))];
        assert_eq!(wish(&client), Ok(Wish::Begin { sides: vec![Side::Server], grace_days: 0 }));
        assert_eq!(wish(&[("finish", json!(true))]), Ok(Wish::Finish));
    }

    #[test]
    fn anything_else_is_refused_without_being_repeated() {
        let huge = "x".repeat(1 << 20);
        for (name, value) in [
            ("authority", json!("client; rm -rf /")),
            ("authority", json!("../client")),
            ("authority", json!("peer\n")),
            ("authority", json!(huge)),
            ("authority", json!(7)),
            ("grace-days", json!(-1)),
            ("grace-days", json!(3_651)),
            ("grace-days", json!("30")),
            ("finish", json!("yes")),
        ] {
            let refusal = wish(&[(name, value)]).unwrap_err();
            assert!(refusal.starts_with(name) && refusal.len() < 100, "{refusal}");
        }
        assert!(wish(&[("finish", json!(true)), ("authority", json!("peer"))]).is_err());
    }
}

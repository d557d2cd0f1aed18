//! The application's secret: both authorities with their keys, and their replacement step by step.
//!
//! Keys never leave the hook that reads them. Every step is a function of the content and does
//! nothing when the content is not in the phase the step is for, so that a step that was planned
//! twice, or by two leaders, happens once.

use etcd_charm::pki::{self, PkiError};
use sha2::{Digest, Sha256};

use crate::bags::Bag;
use crate::facts::Side;
use crate::plan::rotation::Step;
use crate::text::Word;
use crate::trust::{Anchor, Anchors, Successor, Trust};

/// The authorities of one side, with keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    /// Signs members' certificates.
    pub issuing: pki::Authority,
    /// The successor and the days its predecessor's clients have.
    pub next: Option<(pki::Authority, i64)>,
    /// The predecessor's certificate; its key is gone.
    pub old: Option<String>,
}

/// The whole content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretContent {
    /// Signs for port 2379.
    pub server: Keyring,
    /// Signs for port 2380.
    pub peer: Keyring,
    /// The cluster's token.
    token: Word,
}

impl SecretContent {
    /// Makes both authorities and the token.
    ///
    /// # Errors
    /// [`PkiError`] when the random source fails.
    pub fn make(application: &str, now: i64) -> Result<Self, PkiError> {
        let make = |side| {
            let issuing = pki::make_authority(&name(application, side, now), now)?;
            Ok::<_, PkiError>(Keyring { issuing, next: None, old: None })
        };
        let (server, peer) = (make(Side::Server)?, make(Side::Peer)?);
        let token = first_token(&server.issuing.certificate, &peer.issuing.certificate);
        Ok(SecretContent { server, peer, token })
    }

    /// Reads the secret's content and checks that each key fits its certificate.
    ///
    /// # Errors
    /// What is wrong, without any content.
    pub fn read(content: &Bag) -> Result<Self, String> {
        let part = |key: &str| content.get(key).cloned().ok_or(format!("it has no {key}"));
        let authority = |word: &str| {
            let authority =
                pki::Authority { certificate: part(&format!("{word}-cert"))?, key: part(&format!("{word}-key"))? };
            pki::check_pair(&authority.certificate, &authority.key).map_err(|error| error.to_string())?;
            Ok::<_, String>(authority)
        };
        let keyring = |side: Side| {
            let word = side.authority_word();
            let next = match content.contains_key(&format!("{word}-next-cert")) {
                true => {
                    let key = format!("{word}-next-grace");
                    let grace = part(&key)?.parse().map_err(|_| format!("its {key} is no number"))?;
                    Some((authority(&format!("{word}-next"))?, grace))
                }
                false => None,
            };
            let old = content.get(&format!("{word}-old-cert")).cloned();
            if old.as_deref().is_some_and(|pem| Anchor::read(pem).is_none()) {
                return Err(format!("its {word}-old-cert is no certificate"));
            }
            Ok(Keyring { issuing: authority(&format!("{word}-ca"))?, next, old })
        };
        let (server, peer) = (keyring(Side::Server)?, keyring(Side::Peer)?);
        let first = || first_token(&server.issuing.certificate, &peer.issuing.certificate);
        let token = match content.get("cluster-token") {
            Some(text) => Word::parse(text).ok_or("its cluster-token is none")?,
            None => first(),
        };
        Ok(SecretContent { server, peer, token })
    }

    /// The content to store.
    #[must_use]
    pub fn write(&self) -> Bag {
        let mut content = Bag::from([("cluster-token".to_owned(), self.token.to_string())]);
        for side in Side::BOTH {
            let (word, keyring) = (side.authority_word(), self.of(side));
            let mut put = |what: &str, text: &str| drop(content.insert(format!("{word}-{what}"), text.to_owned()));
            put("ca-cert", &keyring.issuing.certificate);
            put("ca-key", &keyring.issuing.key);
            if let Some((next, grace)) = &keyring.next {
                put("next-cert", &next.certificate);
                put("next-key", &next.key);
                put("next-grace", &grace.to_string());
            }
            if let Some(old) = &keyring.old {
                put("old-cert", old);
            }
        }
        content
    }

    /// The authorities of one side.
    #[must_use]
    pub fn of(&self, side: Side) -> &Keyring {
        match side {
            Side::Server => &self.server,
            Side::Peer => &self.peer,
        }
    }

    /// The public half.
    ///
    /// # Errors
    /// What is wrong with a certificate.
    pub fn trust(&self) -> Result<Trust, String> {
        let read = |pem: &String| Anchor::read(pem).ok_or("one of its certificates cannot be read".to_owned());
        let anchors = |keyring: &Keyring| {
            let next = keyring.next.as_ref().map(|(authority, grace_days)| {
                Ok::<_, String>(Successor { anchor: read(&authority.certificate)?, grace_days: *grace_days })
            });
            Ok::<_, String>(Anchors {
                issuing: read(&keyring.issuing.certificate)?,
                next: next.transpose()?,
                old: keyring.old.as_ref().map(read).transpose()?,
            })
        };
        Ok(Trust { server: anchors(&self.server)?, peer: anchors(&self.peer)?, token: self.token.clone() })
    }

    /// Takes one step of a replacement; nothing happens when it is not due in this phase.
    ///
    /// # Errors
    /// [`PkiError`] when the random source fails.
    pub fn take(&mut self, side: Side, step: Step, application: &str, now: i64) -> Result<(), PkiError> {
        let keyring = match side {
            Side::Server => &mut self.server,
            Side::Peer => &mut self.peer,
        };
        match step {
            Step::Introduce { grace_days } if keyring.next.is_none() && keyring.old.is_none() => {
                // A name of its own: TLS names authorities by it. A clock that was set back must not repeat one.
                let taken = pki::describe_certificate(&keyring.issuing.certificate)?.subject;
                let fresh = (now..).map(|at| name(application, side, at)).find(|name| *name != taken);
                keyring.next = Some((pki::make_authority(&fresh.unwrap_or_default(), now)?, grace_days));
            }
            Step::Replace => {
                if let Some((next, _)) = keyring.next.take() {
                    let former = std::mem::replace(&mut keyring.issuing, next);
                    keyring.old = Some(former.certificate);
                }
            }
            Step::Drop => keyring.old = None,
            Step::Introduce { .. } => {}
        }
        Ok(())
    }
}

/// `etcd client authority 2026-11-25T13:16:12Z`.
fn name(application: &str, side: Side, at: i64) -> String {
    format!("{application} {} authority {}", side.authority_word(), crate::plan::rotation::moment(at))
}

/// The token of a cluster, made from its first authorities, so that it is as unique as they are.
fn first_token(server: &str, peer: &str) -> Word {
    let hash = Sha256::digest(format!("{server}{peer}").as_bytes());
    Word::hex("etcd-", &hash[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::Phase;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn the_secret_reads_back_and_a_key_of_another_authority_is_refused_without_showing_it() {
        let mut secret = SecretContent::make("etcd", NOW).unwrap();
        secret.take(Side::Server, Step::Introduce { grace_days: 30 }, "etcd", NOW).unwrap();
        let mut content = secret.write();
        assert_eq!(SecretContent::read(&content), Ok(secret));
        let key = content["peer-ca-key"].clone();
        content.insert("client-ca-key".to_owned(), key.clone());
        let refusal = SecretContent::read(&content).err().unwrap();
        assert!(refusal.contains("does not belong") && !refusal.contains(&key), "{refusal}");
        content.remove("client-ca-key");
        assert_eq!(SecretContent::read(&content).err().unwrap(), "it has no client-ca-key");
    }

    #[test]
    fn each_step_happens_once_and_each_result_follows_the_one_before() {
        let mut secret = SecretContent::make("etcd", NOW).unwrap();
        let begin = secret.trust().unwrap();
        let mut before = begin.clone();
        let introduce = Step::Introduce { grace_days: 30 };
        for (step, phase) in
            [(introduce, Phase::Introduced), (Step::Replace, Phase::Replacing), (Step::Drop, Phase::Steady)]
        {
            secret.take(Side::Peer, step, "etcd", NOW).unwrap();
            let after = secret.trust().unwrap();
            assert_eq!(after.peer.phase(), phase);
            assert!(after.follows(&before) && after.server == begin.server && after.token == begin.token);
            secret.take(Side::Peer, step, "etcd", NOW).unwrap();
            assert_eq!(secret.trust().unwrap(), after, "{step:?} taken twice");
            before = after;
        }
        assert_ne!(before.peer.issuing, begin.peer.issuing);
        assert_ne!(before.peer.issuing.name, begin.peer.issuing.name, "even in the same second");
    }

    #[test]
    fn the_key_of_a_replaced_authority_is_forgotten_at_once() {
        let mut secret = SecretContent::make("etcd", NOW).unwrap();
        let key = secret.server.issuing.key.clone();
        secret.take(Side::Server, Step::Introduce { grace_days: 0 }, "etcd", NOW).unwrap();
        secret.take(Side::Server, Step::Replace, "etcd", NOW).unwrap();
        assert!(secret.write().values().all(|text| *text != key));
        assert!(!format!("{secret:?}").contains("PRIVATE KEY"));
    }

    #[test]
    fn a_secret_without_a_token_keeps_the_one_it_always_had() {
        let secret = SecretContent::make("etcd", NOW).unwrap();
        let mut content = secret.write();
        content.remove("cluster-token");
        assert_eq!(SecretContent::read(&content), Ok(secret));
    }
}

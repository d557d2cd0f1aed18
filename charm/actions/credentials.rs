//! `generate-client-certificates`: a fresh client certificate, packed for an operator.
//!
//! Works on every unit: each may read the application's secret, so each can sign, and the action
//! is complete when it returns. The archive holds one private key; it is readable by its owner only
//! and its text never enters an action result or a log.

use std::io::Write as _;

use etcd_charm::pki::{self, Usage, Validity};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use super::Answer;
use crate::act::CharmError;
use crate::cluster::client_urls;
use crate::host::{Host, HostError};
use crate::juju::Juju;
use crate::observe::{now, observe, published_endpoints, read_secret};
use crate::pending::Pending;
use crate::plan::rotation::{moment, signs_clients_with_successor};
use crate::text::{ClientUrl, CommonName, quoted};

/// The archive's name in the user's home.
const ARCHIVE: &str = "etcd_client_credentials.tar.gz";
/// Shortest life of a client certificate, in days.
pub const MIN_DAYS: i64 = 1;
/// Longest life of a client certificate, in days.
pub const MAX_DAYS: i64 = 3_650;
/// Life of a client certificate when none is asked for, in days.
pub const DEFAULT_DAYS: i64 = 365;
/// Name in the certificate when none is asked for.
pub const DEFAULT_NAME: &str = "etcd-client";

const README: &str = "\
Credentials of one etcd client.

  ca.pem          the authority that signed the cluster's certificates; two, while one replaces the other
  clientcert.pem  this client's certificate
  clientkey.pem   this client's private key: keep it to yourself
  env-v3          the variables etcdctl reads, for API 3
  env-v2          the same for API 2
  env             both; etcdctl then warns of each variable of API 2 while it speaks API 3

In the folder where these files lie:

  . ./env-v3
  etcdctl endpoint health

or

  . ./env-v2
  etcdctl cluster-health
";

/// What the operator asked for, checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Wish {
    /// Common name.
    pub name: CommonName,
    /// Life in days.
    pub days: i64,
}

/// The two APIs of etcdctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// 2.
    V2,
    /// 3.
    V3,
}

/// Signs, packs and leaves the archive.
///
/// # Errors
/// [`CharmError`]; nothing was changed then.
pub fn run(juju: &Juju, host: &Host) -> Result<Answer, CharmError> {
    let parameters = juju.parameters()?;
    let wish = check(parameters.get("cn"), parameters.get("days")).map_err(CharmError::Parameter)?;
    let place = host.place_for_user(ARCHIVE)?;
    let secret = read_secret(juju)?;
    let sight = observe(juju, host, &Pending::default(), false)?;
    let mut endpoints: Vec<ClientUrl> = match sight.asker.members() {
        Ok(members) => members.iter().flat_map(client_urls).collect(),
        Err(_) => published_endpoints(&sight.facts),
    };
    endpoints.sort();
    if endpoints.is_empty() {
        return Err(CharmError::Parameter("the cluster has no members yet; wait until the unit is active".to_owned()));
    }
    let now = now();
    let key = pki::make_key()?;
    let request = pki::make_request(&key, &wish.name, &[])?;
    let life = Validity::days(now, wish.days);
    // While the authority is replaced the new one signs as soon as every member trusts it, so that these
    // credentials outlive the old one; the bundle names both until then.
    let authority = match &secret.server.next {
        Some((next, _)) if signs_clients_with_successor(&sight.facts) => next,
        _ => &secret.server.issuing,
    };
    let bundle = secret.trust().map_err(CharmError::Secret)?.server.bundle();
    let certificate = pki::sign_request(authority, &request, &[], Usage::ClientOnly, life)?;
    let until = pki::certificate_validity(&certificate)?.until;
    let endpoints = list(&endpoints);
    let [both, old, new] = [&[Api::V2, Api::V3][..], &[Api::V2], &[Api::V3]].map(|apis| environment(apis, &endpoints));
    let archive = pack(
        now,
        &[
            ("ca.pem", 0o644, &bundle),
            ("clientcert.pem", 0o644, &certificate),
            ("clientkey.pem", 0o600, &key),
            ("env", 0o644, &both),
            ("env-v2", 0o644, &old),
            ("env-v3", 0o644, &new),
            ("README", 0o644, README),
        ],
    )
    .map_err(|error| CharmError::Parameter(format!("the archive could not be made: {error}")))?;
    place.leave(&archive).map_err(HostError::from)?;
    let (path, owned) = (&place.path, place.owner.is_some());
    let unit = &sight.facts.unit;
    let note = if owned { "" } else { " (this machine has no user ubuntu: only root can read it)" };
    let mut answer = Answer::default();
    answer.result("path", path.display());
    answer.result("cn", &wish.name);
    answer.result("expires", moment(until));
    answer.result("endpoints", endpoints);
    answer.result("message", format!("copy it with: juju scp {unit}:{} .{note}", path.display()));
    Ok(answer)
}

/// Checks both parameters. Nothing of them ever reaches a shell or a path.
///
/// # Errors
/// What is wrong, in one line.
pub fn check(name: Option<&Value>, days: Option<&Value>) -> Result<Wish, String> {
    let name = match name {
        None | Some(Value::Null) => DEFAULT_NAME,
        Some(Value::String(name)) => name,
        Some(other) => {
            let shown = quoted(&other.to_string());
            return Err(format!("cn is {shown}: give a name; Juju reads numbers and yes as none: cn='\"123\"'"));
        }
    };
    let Some(name) = CommonName::parse(name) else {
        return Err(format!(
            "cn is \"{}\": give at most 64 letters, digits and . _ @ : -, beginning with a letter or a digit, without \
             two dots in a row",
            quoted(name)
        ));
    };
    let days = match days {
        None | Some(Value::Null) => DEFAULT_DAYS,
        Some(value) => match value.as_i64() {
            Some(days) if (MIN_DAYS..=MAX_DAYS).contains(&days) => days,
            _ => {
                let shown = quoted(&value.to_string());
                return Err(format!("days is {shown}: give a whole number from {MIN_DAYS} to {MAX_DAYS}"));
            }
        },
    };
    Ok(Wish { name, days })
}

/// `https://10.0.0.5:2379,https://10.0.0.6:2379`.
#[must_use]
pub fn list(urls: &[ClientUrl]) -> String {
    urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A file for `.` in any POSIX shell, from the folder that holds it: the variables of these APIs. One that
/// is for a single API chooses it too and takes the other's variables away, because etcdctl 3.4 and newer warn
/// of each that they do not know. `endpoints` is a list of [`ClientUrl`], none of which a shell could misread.
#[must_use]
pub fn environment(apis: &[Api], endpoints: &str) -> String {
    let mut text = "# Read this with a dot from the folder that holds it.\n".to_owned();
    for api in [Api::V2, Api::V3] {
        let [ca, certificate, key, urls] = match api {
            Api::V2 => ["CA_FILE", "CERT_FILE", "KEY_FILE", "ENDPOINT"],
            Api::V3 => ["CACERT", "CERT", "KEY", "ENDPOINTS"],
        };
        text.push_str(&match apis.contains(&api) {
            true => format!(
                "export ETCDCTL_{ca}=\"$PWD/ca.pem\"\n\
                 export ETCDCTL_{certificate}=\"$PWD/clientcert.pem\"\n\
                 export ETCDCTL_{key}=\"$PWD/clientkey.pem\"\n\
                 export ETCDCTL_{urls}=\"{endpoints}\"\n"
            ),
            false => format!("unset ETCDCTL_{ca} ETCDCTL_{certificate} ETCDCTL_{key} ETCDCTL_{urls}\n"),
        });
    }
    match apis {
        [Api::V2] => text + "export ETCDCTL_API=2\n",
        // Speaking API 3 is what every etcdctl does unasked since 3.4.
        [Api::V3] => text + "unset ETCDCTL_API\n",
        _ => text,
    }
}

fn pack(now: i64, files: &[(&str, u32, &str)]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, mode, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(now.unsigned_abs());
        archive.append_data(&mut header, name, text.as_bytes())?;
    }
    let mut gzip = archive.into_inner()?;
    gzip.flush()?;
    gzip.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn good_parameters_are_taken_and_absent_ones_have_defaults() {
        let wish = check(Some(&json!("root")), Some(&json!(7))).unwrap();
        assert_eq!(wish, Wish { name: "root".into(), days: 7 });
        assert_eq!(check(None, None).unwrap(), Wish { name: DEFAULT_NAME.into(), days: DEFAULT_DAYS });
    }

    #[test]
    fn a_name_that_could_mean_anything_to_a_shell_or_a_path_is_refused_by_name() {
        for bad in ["a;b", "..", "a..b", "a\nb", "", "-x", "$(id)", "a/b", "a b", "'", &"x".repeat(65)] {
            let refusal = check(Some(&json!(bad)), None).unwrap_err();
            assert!(refusal.starts_with("cn is") && !refusal.contains('\n'), "{refusal}");
        }
        assert!(check(Some(&json!(5)), None).is_err());
    }

    #[test]
    fn days_outside_one_to_ten_years_are_refused_with_the_limits() {
        for bad in [json!(0), json!(-1), json!(3651), json!("9; rm"), json!(1.5)] {
            let refusal = check(None, Some(&bad)).unwrap_err();
            assert!(refusal.contains("1 to 3650"), "{refusal}");
        }
    }

    #[test]
    fn the_archive_holds_its_files_at_the_root_and_the_key_for_its_owner_alone() {
        let bytes = pack(1_800_000_000, &[("ca.pem", 0o644, "a"), ("clientkey.pem", 0o600, "k")]).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            seen.push((entry.path().unwrap().display().to_string(), entry.header().mode().unwrap(), text));
        }
        assert_eq!(seen, [("ca.pem".into(), 0o644, "a".into()), ("clientkey.pem".into(), 0o600, "k".into())]);
    }

    #[test]
    fn the_environment_names_the_variables_of_both_apis() {
        let text = environment(&[Api::V2, Api::V3], "https://10.0.0.5:2379");
        for name in ["CA_FILE", "CERT_FILE", "KEY_FILE", "ENDPOINT", "CACERT", "CERT", "KEY", "ENDPOINTS"] {
            assert!(text.contains(&format!("export ETCDCTL_{name}=\"")), "{name}");
        }
    }
}

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
use crate::host::Host;
use crate::juju::Juju;
use crate::observe::{now, observe, published_endpoints, read_secret};
use crate::pending::Pending;
use crate::plan::rotation::{moment, signs_clients_with_successor};

/// The archive's name in the user's home.
const ARCHIVE: &str = "etcd_client_credentials.tar.gz";
/// Longest life of a client certificate, in days.
const MAX_DAYS: i64 = 3_650;
/// Life of a client certificate when none is asked for, in days.
const DEFAULT_DAYS: i64 = 365;
/// Name in the certificate when none is asked for.
const DEFAULT_NAME: &str = "etcd-client";
/// Longest common name; X.509 allows 64 characters.
const MAX_NAME: usize = 64;

const README: &str = "\
Credentials of one etcd client.

  ca.pem          the authority that signed the cluster's certificates; two, while one replaces the other
  clientcert.pem  this client's certificate
  clientkey.pem   this client's private key: keep it to yourself
  env        the variables etcdctl reads, for API 2 and API 3

In the folder where these files lie:

  . ./env
  ETCDCTL_API=3 etcdctl endpoint health
  ETCDCTL_API=2 etcdctl cluster-health
";

/// What the operator asked for, checked.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    name: String,
    days: i64,
}

/// Signs, packs and leaves the archive.
///
/// # Errors
/// [`CharmError`]; nothing was changed then.
pub fn run(juju: &Juju, host: &Host) -> Result<Answer, CharmError> {
    let parameters = juju.parameters()?;
    let wish = check(parameters.get("cn"), parameters.get("days")).map_err(CharmError::Parameter)?;
    let secret = read_secret(juju)?;
    let sight = observe(juju, host, &Pending::default(), false)?;
    let mut endpoints: Vec<String> = match sight.asker.members() {
        Ok(members) => members.into_iter().flat_map(|member| member.client_urls).collect(),
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
    let environment = environment(&endpoints.join(","));
    let archive = pack(
        now,
        &[
            ("ca.pem", 0o644, &bundle),
            ("clientcert.pem", 0o644, &certificate),
            ("clientkey.pem", 0o600, &key),
            ("env", 0o644, &environment),
            ("README", 0o644, README),
        ],
    )
    .map_err(|error| CharmError::Parameter(format!("the archive could not be made: {error}")))?;
    let (path, owned) = host.leave_for_user(ARCHIVE, &archive)?;
    let unit = &sight.facts.unit;
    let note = if owned { "" } else { " (this machine has no user ubuntu: only root can read it)" };
    let mut answer = Answer::default();
    answer.result("path", path.display());
    answer.result("cn", &wish.name);
    answer.result("expires", moment(until));
    answer.result("endpoints", endpoints.join(","));
    answer.result("message", format!("copy it with: juju scp {unit}:{} .{note}", path.display()));
    Ok(answer)
}

/// Checks both parameters. Nothing of them ever reaches a shell or a path; the limits keep the name
/// printable and the certificate usable.
fn check(name: Option<&Value>, days: Option<&Value>) -> Result<Wish, String> {
    let name = match name {
        None | Some(Value::Null) => DEFAULT_NAME.to_owned(),
        Some(Value::String(name)) => name.clone(),
        Some(other) => return Err(format!("cn is {other}: give a name such as {DEFAULT_NAME}")),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    let good = name.chars().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= MAX_NAME
        && !name.contains("..");
    if !good {
        let shown: String = name.escape_debug().take(MAX_NAME).collect();
        return Err(format!(
            "cn is \"{shown}\": give at most {MAX_NAME} letters, digits and . _ @ -, beginning with a letter or a \
             digit, without two dots in a row"
        ));
    }
    let days = match days {
        None | Some(Value::Null) => DEFAULT_DAYS,
        Some(value) => match value.as_i64() {
            Some(days) if (1..=MAX_DAYS).contains(&days) => days,
            _ => return Err(format!("days is {value}: give a whole number from 1 to {MAX_DAYS}")),
        },
    };
    Ok(Wish { name, days })
}

/// A file for `.` in any POSIX shell, from the folder that holds it: the variables of both APIs.
fn environment(endpoints: &str) -> String {
    format!(
        "# Read this from the folder that holds it:  . ./env\n\
         export ETCDCTL_CA_FILE=\"$PWD/ca.pem\"\n\
         export ETCDCTL_CERT_FILE=\"$PWD/clientcert.pem\"\n\
         export ETCDCTL_KEY_FILE=\"$PWD/clientkey.pem\"\n\
         export ETCDCTL_ENDPOINT=\"{endpoints}\"\n\
         export ETCDCTL_CACERT=\"$PWD/ca.pem\"\n\
         export ETCDCTL_CERT=\"$PWD/clientcert.pem\"\n\
         export ETCDCTL_KEY=\"$PWD/clientkey.pem\"\n\
         export ETCDCTL_ENDPOINTS=\"{endpoints}\"\n"
    )
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
        assert_eq!(wish, Wish { name: "root".to_owned(), days: 7 });
        assert_eq!(check(None, None).unwrap(), Wish { name: DEFAULT_NAME.to_owned(), days: DEFAULT_DAYS });
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
        let text = environment("https://10.0.0.5:2379");
        for name in ["CA_FILE", "CERT_FILE", "KEY_FILE", "ENDPOINT", "CACERT", "CERT", "KEY", "ENDPOINTS"] {
            assert!(text.contains(&format!("export ETCDCTL_{name}=\"")), "{name}");
        }
    }
}

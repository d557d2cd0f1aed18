//! Command-line flags the way Juju's tools take them: anywhere among the arguments, `-r x`, `-r=x`,
//! `--format json`, `--format=json`, and `--` ends them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Refusal, output, usage};

/// Parsed arguments.
#[derive(Debug, Default)]
pub struct Flags {
    values: BTreeMap<String, String>,
    switches: BTreeSet<String>,
    /// What is not a flag, in order.
    pub rest: Vec<String>,
}

impl Flags {
    /// Splits `args` by the names of flags with and without a value.
    pub fn parse(args: &[String], known: (&[&str], &[&str])) -> Result<Self, Refusal> {
        let mut flags = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--" {
                flags.rest.extend(args.by_ref().cloned());
                break;
            }
            let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|name| !name.is_empty())
            else {
                flags.rest.push(arg.clone());
                continue;
            };
            let (name, inline) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            if known.1.contains(&name) {
                if inline.as_deref() != Some("false") {
                    flags.switches.insert(name.to_owned());
                }
            } else if known.0.contains(&name) {
                let value = match inline {
                    Some(value) => value,
                    None => args.next().cloned().ok_or_else(|| usage(format!("option needs an argument: {arg}")))?,
                };
                flags.values.insert(name.to_owned(), value);
            } else {
                return Err(usage(format!("option provided but not defined: {arg}")));
            }
        }
        Ok(flags)
    }

    /// The value of a flag.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// True when the switch was given.
    pub fn has(&self, name: &str) -> bool {
        self.switches.contains(name)
    }

    /// The n-th plain argument.
    pub fn arg(&self, index: usize) -> Option<&str> {
        self.rest.get(index).map(String::as_str)
    }

    /// `-r` or `--relation`.
    pub fn relation(&self) -> Option<&str> {
        self.value("r").or(self.value("relation"))
    }

    /// Prints `value` in the format asked for.
    pub fn print(&self, value: &serde_json::Value, default: &str) -> Result<String, Refusal> {
        output::print(value, self.value("format").unwrap_or(default)).map_err(usage)
    }

    /// The `key=value` arguments from position `from` on.
    pub fn pairs(&self, from: usize) -> Result<BTreeMap<String, String>, Refusal> {
        self.rest
            .iter()
            .skip(from)
            .map(|pair| match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
                _ => Err(usage(format!("expected \"key=value\", got {pair:?}"))),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, Refusal> {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Flags::parse(&args, (&["r", "format"], &["app"]))
    }

    #[test]
    fn flags_may_stand_anywhere_and_a_dash_is_an_argument() {
        let flags = parse("-r peer:0 - --format=json etcd/1 --app").unwrap();
        assert_eq!((flags.relation(), flags.value("format"), flags.has("app")), (Some("peer:0"), Some("json"), true));
        assert_eq!(flags.rest, ["-", "etcd/1"]);
    }

    #[test]
    fn unknown_flags_exit_2() {
        assert_eq!(parse("--nonsense").unwrap_err(), usage("option provided but not defined: --nonsense"));
    }
}

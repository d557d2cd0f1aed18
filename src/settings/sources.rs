//! Where values come from: the command line and the `ETCD_*` variables, or a configuration file
//! instead of both. The result is a plain map from flag to text, each text in the format that the flag's row
//! requires.
//!
//! Rules copied from etcd: one or two dashes, `--flag value` or `--flag=value`, a boolean without
//! value means true, the last of several equal flags wins, empty variables count as unset, and a
//! flag and a variable of the same name together are refused.

use std::collections::BTreeMap;

use super::error::{SettingsError, shown};
use super::flags::{Kind, Meaning, meaning_of, spellings, variable_of};

/// A value that was set explicitly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Its text.
    pub text: String,
    /// The name it was given under: a flag's spelling or a file's key.
    pub spelled: String,
}

/// All explicitly set values, by the flag's name in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    /// Flag → value.
    pub flags: BTreeMap<&'static str, Given>,
    /// Feature gates set by an old boolean flag.
    pub gates: BTreeMap<&'static str, (bool, String)>,
    /// Warnings to log once logging is initialised.
    pub notices: Vec<String>,
}

impl Values {
    /// Stores one value under its flag; its format must have been checked.
    pub fn put(&mut self, meaning: Meaning, spelled: &str, text: &str) -> Result<(), SettingsError> {
        match meaning {
            Meaning::Gate(gate) => {
                let on = super::values::parse_bool(text).unwrap_or(false);
                self.gates.insert(gate, (on, spelled.to_owned()));
            }
            Meaning::Flag(flag) => {
                let given = Given { text: text.to_owned(), spelled: spelled.to_owned() };
                if let Some(before) = self.flags.insert(flag.name, given)
                    && before.spelled != spelled
                {
                    return Err(SettingsError::TwoSpellings {
                        first: before.spelled,
                        second: spelled.to_owned(),
                        plain: flag.name.to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Whether this flag was set explicitly.
    pub fn is_set(&self, name: &str) -> bool {
        self.flags.contains_key(name)
    }
}

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// `-h`, `--help`.
    Help,
    /// `--version`.
    Version,
    /// Flags to run with, and the configuration file if one was given.
    Flags {
        /// The flags.
        values: Values,
        /// `--config-file`.
        config_file: Option<String>,
    },
}

/// Parses the arguments after the program's name.
pub fn read_command_line(words: &[String]) -> Result<CommandLine, SettingsError> {
    let mut values = Values::default();
    let mut config_file = None;
    let mut version = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some((name, inline)) = split_flag(word)? else {
            let stray = if word == "--" { words.next() } else { Some(word) };
            match stray {
                Some(stray) if matches!(stray.as_str(), "gateway" | "grpc-proxy") && values == Values::default() => {
                    return Err(SettingsError::Subcommand(stray.clone()));
                }
                Some(stray) => return Err(SettingsError::StrayWord(shown(stray))),
                None => break,
            }
        };
        match name {
            "h" | "help" => return Ok(CommandLine::Help),
            "version" => version = boolean(name, inline)?,
            "config-file" => config_file = Some(argument(name, inline, &mut words)?.to_owned()),
            _ => {
                let meaning = meaning_of(name).ok_or_else(|| SettingsError::UnknownFlag(shown(name)))?;
                let text = match meaning.kind() {
                    Kind::Bool => {
                        if boolean(name, inline)? {
                            "true"
                        } else {
                            "false"
                        }
                    }
                    _ => argument(name, inline, &mut words)?,
                };
                meaning.kind().check(text).map_err(|reason| SettingsError::FlagValue {
                    name: name.to_owned(),
                    value: shown(text),
                    reason,
                })?;
                values.put(meaning, name, text)?;
            }
        }
    }
    if version {
        return Ok(CommandLine::Version);
    }
    Ok(CommandLine::Flags { values, config_file: config_file.filter(|path| !path.is_empty()) })
}

/// `--name=value` → (`name`, `value`); `None` for an argument that is no flag.
pub(super) fn split_flag(word: &str) -> Result<Option<(&str, Option<&str>)>, SettingsError> {
    let Some(body) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
        return Ok(None);
    };
    if body.is_empty() {
        return Ok(None);
    }
    if body.starts_with(['-', '=']) {
        return Err(SettingsError::BadSyntax(shown(word)));
    }
    Ok(Some(match body.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (body, None),
    }))
}

pub(super) fn boolean(name: &str, inline: Option<&str>) -> Result<bool, SettingsError> {
    let text = inline.unwrap_or("true");
    super::values::parse_bool(text).map_err(|reason| SettingsError::BooleanValue {
        name: name.to_owned(),
        value: shown(text),
        reason,
    })
}

pub(super) fn argument<'a>(
    name: &str,
    inline: Option<&'a str>,
    words: &mut std::slice::Iter<'a, String>,
) -> Result<&'a str, SettingsError> {
    inline.or_else(|| words.next().map(String::as_str)).ok_or_else(|| SettingsError::MissingArgument(name.to_owned()))
}

/// Adds the `ETCD_*` variables to the flags.
pub fn add_environment(values: &mut Values, environment: &BTreeMap<String, String>) -> Result<(), SettingsError> {
    let given_as_flags: Vec<String> = values
        .flags
        .values()
        .map(|given| &given.spelled)
        .chain(values.gates.values().map(|(_, spelled)| spelled))
        .map(|spelled| variable_of(spelled))
        .collect();
    if let Some(variable) = given_as_flags.iter().find(|name| environment.contains_key(*name)) {
        return Err(SettingsError::Shadowed(variable.clone()));
    }
    let known: BTreeMap<String, String> = spellings().map(|spelled| (variable_of(&spelled), spelled)).collect();
    for (variable, text) in environment.iter().filter(|(name, _)| name.starts_with("ETCD_")) {
        let Some((spelled, meaning)) = known.get(variable).and_then(|spelled| Some((spelled, meaning_of(spelled)?)))
        else {
            if variable != "ETCD_CONFIG_FILE" {
                values.notices.push(format!("unrecognized environment variable {variable} is ignored"));
            }
            continue;
        };
        if text.is_empty() {
            continue;
        }
        meaning.kind().check(text).map_err(|reason| SettingsError::VariableValue {
            variable: variable.clone(),
            value: shown(text),
            reason,
        })?;
        values.put(meaning, spelled, text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    fn flags(line: &str) -> Values {
        match read_command_line(&words(line)) {
            Ok(CommandLine::Flags { values, .. }) => values,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_syntax_of_a_flag_gives_the_same_value() {
        for line in ["--name a", "-name a", "--name=a", "-name=a", "--name b --name a"] {
            assert_eq!(flags(line).flags["name"].text, "a", "{line}");
        }
        for (line, text) in [
            ("--pre-vote", "true"),
            ("-pre-vote=false", "false"),
            ("--pre-vote=0", "false"),
            ("--pre-vote --name a", "true"),
        ] {
            assert_eq!(flags(line).flags["pre-vote"].text, text, "{line}");
        }
        assert_eq!(flags("--name=a=b").flags["name"].text, "a=b");
        assert_eq!(flags("--name=").flags["name"].text, "");
    }

    #[test]
    fn experimental_spellings_set_the_same_flag() {
        let values = flags("--experimental-max-learners=3 --experimental-initial-corrupt-check=true");
        assert_eq!(values.flags["max-learners"].text, "3");
        assert!(values.gates["InitialCorruptCheck"].0);
    }

    #[test]
    fn malformed_command_lines_exit_with_two_and_gos_messages() {
        for (line, said) in [
            ("--no-such-flag", "flag provided but not defined: -no-such-flag"),
            ("--no-such-flag=1", "flag provided but not defined: -no-such-flag"),
            ("--name", "flag needs an argument: -name"),
            ("---name", "bad flag syntax: ---name"),
            ("--=x", "bad flag syntax: --=x"),
            ("--pre-vote=maybe", "invalid boolean value \"maybe\" for -pre-vote: parse error"),
            ("--election-timeout=abc", "invalid value \"abc\" for flag -election-timeout: parse error"),
            ("--election-timeout=-1", "invalid value \"-1\" for flag -election-timeout: parse error"),
            (
                "--election-timeout=4294967296",
                "invalid value \"4294967296\" for flag -election-timeout: value out of range",
            ),
            ("--grpc-keepalive-timeout=5", "invalid value \"5\" for flag -grpc-keepalive-timeout: "),
            ("--listen-client-urls=foo", "invalid value \"foo\" for flag -listen-client-urls: URL scheme must be"),
            (
                "--initial-cluster-state=old",
                "invalid value \"old\" for flag -initial-cluster-state: invalid value (use one of new, existing)",
            ),
            (
                "--feature-gates=X=true",
                "invalid value \"X=true\" for flag -feature-gates: unrecognized feature gate: X",
            ),
        ] {
            let error = read_command_line(&words(line)).expect_err(line);
            assert!(error.to_string().starts_with(said), "{line}: {error}");
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn stray_arguments_and_two_spellings_exit_with_one() {
        for (line, said) in [
            ("start", "\"start\" is not a valid flag"),
            ("--pre-vote false", "\"false\" is not a valid flag"),
            ("-- x", "\"x\" is not a valid flag"),
            (
                "--max-learners=1 --experimental-max-learners=2",
                "both --max-learners and --experimental-max-learners flags are set. Use only --max-learners",
            ),
        ] {
            let error = read_command_line(&words(line)).expect_err(line);
            assert_eq!(error.to_string(), said);
            assert_eq!(error.exit_code(), 1, "{line}");
        }
    }

    #[test]
    fn help_and_version_are_recognised() {
        for line in ["-h", "--help", "--name a -help"] {
            assert_eq!(read_command_line(&words(line)), Ok(CommandLine::Help));
        }
        for line in ["--version", "-version", "--version=true", "--version --name a"] {
            assert_eq!(read_command_line(&words(line)), Ok(CommandLine::Version));
        }
    }

    #[test]
    fn variables_set_what_flags_do_not() {
        let mut values = flags("--name a");
        let env = environment(&[
            ("ETCD_DATA_DIR", "/d"),
            ("ETCD_WAL_DIR", ""),
            ("ETCD_NONSENSE", "secret"),
            ("ETCDCTL_API", "3"),
            ("PATH", "/bin"),
        ]);
        add_environment(&mut values, &env).expect("environment");
        assert_eq!(values.flags["data-dir"].text, "/d");
        assert!(!values.is_set("wal-dir"));
        assert_eq!(values.notices, ["unrecognized environment variable ETCD_NONSENSE is ignored"]);
    }

    #[test]
    fn a_flag_and_its_variable_together_are_refused() {
        let error = add_environment(&mut flags("--name a"), &environment(&[("ETCD_NAME", "a")])).expect_err("both");
        assert_eq!(
            error.to_string(),
            "conflicting environment variable \"ETCD_NAME\" is shadowed by corresponding command-line \
             flag (either unset environment variable or disable flag)"
        );
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn a_bad_variable_is_named_with_its_value() {
        let error = add_environment(&mut Values::default(), &environment(&[("ETCD_ELECTION_TIMEOUT", "soon")]))
            .expect_err("variable");
        assert!(error.to_string().starts_with("invalid value \"soon\" for ETCD_ELECTION_TIMEOUT: "));
        assert_eq!(error.exit_code(), 1);
    }
}

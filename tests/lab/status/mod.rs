//! `lab status`: the report as data, and its tabular form.

pub mod report;
pub mod tabular;

use time::OffsetDateTime;
use time::macros::format_description;

/// Milliseconds since the epoch as Juju prints times in data.
pub fn time(millis: u64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp((millis / 1000) as i64).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    moment.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z")).unwrap_or_default()
}

/// The time of day alone, for tables and logs.
pub fn time_of_day(millis: u64) -> String {
    time(millis).split(['T', 'Z']).nth(1).unwrap_or_default().to_owned()
}

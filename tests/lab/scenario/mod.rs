//! Scenarios of the acceptance list, played on real machines: each prints what it measures and fails with
//! what was not as it must be.

mod alone;
mod bad_input;
mod cluster;
mod kill_leader;
mod refresh;
mod replace;
mod reuse;
mod rotate_ca;
mod rotations;
mod scale;
mod seeds;
mod storage;
mod writer;

use std::path::Path;

use crate::cli::Scenario;
use crate::client::Lab;

/// Plays one scenario in `lab`, which must not be running; the lab is destroyed afterwards if all went well.
pub fn run(lab: &Lab, charm: &Path, which: Scenario) -> Result<(), String> {
    if lab.is_up() {
        return Err("this lab is running; give another name with --lab or destroy it first".to_owned());
    }
    lab.home.clean()?;
    match which {
        Scenario::Scale => scale::run(lab, charm),
        Scenario::Seeds { count } => seeds::run(lab, charm, count),
        Scenario::KillLeader => kill_leader::run(lab, charm),
        Scenario::RotateCa => rotate_ca::run(lab, charm),
        Scenario::Rotations { rounds } => rotations::run(lab, charm, rounds),
        Scenario::Replace { rounds, seed } => replace::run(lab, charm, rounds, seed),
        Scenario::Reuse { rounds, seed } => reuse::run(lab, charm, rounds, seed),
        Scenario::Refresh => refresh::run(lab, charm),
        Scenario::Storage => storage::run(lab, charm),
        Scenario::BadInput => bad_input::run(lab, charm),
        Scenario::Alone => alone::run(lab, charm),
    }?;
    lab.destroy()
}

//! Scenarios of the lab that CI can afford, with machines that are plain processes, as either Juju.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest time a scenario may take, in seconds; a limit for what hangs.
const LIMIT: &str = "900";

/// The lab, beside the programs of this build.
fn lab() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_etcd")).parent().expect("a program lies in a folder");
    let lab = folder.join("examples/lab");
    assert!(lab.exists(), "{} is missing: cargo build --release --examples", lab.display());
    lab
}

/// Packs this build's charm and plays a scenario with it in a lab of that name.
fn play(name: &str, juju: &str, scenario: &[&str]) {
    let charm = std::env::temp_dir().join(format!("{name}-{}.charm", std::process::id()));
    let packed = Command::new(env!("CARGO_BIN_EXE_pack"))
        .arg(&charm)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("pack starts");
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    let lab = lab();
    let output = Command::new("timeout")
        .args(["--kill-after=10", LIMIT])
        .arg(&lab)
        .args(["--lab", name, "--juju", juju, "scenario", "--machines", "process", "--charm"])
        .arg(&charm)
        .args(scenario)
        .output()
        .expect("the lab starts");
    // A scenario that fails leaves its lab for a person to look at.
    let destroyed = Command::new(&lab).args(["--lab", name, "destroy"]).output().expect("the lab starts");
    std::fs::remove_file(&charm).expect("the archive was there");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("PASSED"), "{out}");
    assert!(destroyed.status.success(), "{}", String::from_utf8_lossy(&destroyed.stderr));
}

#[test]
fn authorities_replaced_again_and_again_under_juju_3_6_leave_one_revision_and_fail_no_hook() {
    play("ci-rotations-3", "3", &["rotations", "3"]);
}

#[test]
fn authorities_replaced_again_and_again_under_juju_4_0_leave_one_revision_and_fail_no_hook() {
    play("ci-rotations-4", "4", &["rotations", "3"]);
}

#[test]
fn the_only_unit_is_replaced_under_juju_3_6_without_loss_and_no_second_cluster_begins() {
    play("ci-replace-3", "3", &["replace", "2"]);
}

#[test]
fn the_only_unit_is_replaced_under_juju_4_0_without_loss_and_no_second_cluster_begins() {
    play("ci-replace-4", "4", &["replace", "2"]);
}

#[test]
fn a_unit_joins_under_juju_3_6_at_an_address_that_was_used_before() {
    play("ci-reuse-3", "3", &["reuse", "3"]);
}

#[test]
fn a_unit_joins_under_juju_4_0_at_an_address_that_was_used_before_while_juju_lists_who_had_it() {
    play("ci-reuse-4", "4", &["reuse", "3"]);
}

//! Tests only: how a unit goes, what it keeps until it is dead, and when the others hear of it.

use std::collections::BTreeMap;

use super::generation::Generation;
use super::lifecycle::tests::{deployed, settle};
use super::task::{Task, Work};
use crate::schedule::{Next, Op, next};

#[test]
fn a_leader_that_is_told_to_go_keeps_its_lease_until_it_is_dead() {
    for generation in Generation::BOTH {
        let mut world = deployed(2);
        world.options.generation = generation;
        settle(&mut world, "toy/0", 0);
        settle(&mut world, "toy/1", 0);
        world.remove_unit("toy/0").unwrap();
        assert!(world.is_leader("toy/0", 1), "{generation:?}: it is told to go");
        for hook in ["stop", "remove"] {
            world.begin("toy/0", &Op::Plain(hook), 2);
            assert!(world.is_leader("toy/0", 2), "{generation:?}: {hook} runs");
            if hook == "stop" {
                world.finish("toy/0", &Op::Plain(hook), 0, 3, 1_000);
                assert!(world.is_leader("toy/0", 3), "{generation:?}: {hook} has run");
            }
        }
        world.forget_unit("toy/0");
        assert!(!world.is_leader("toy/0", 4), "{generation:?}: it is dead");
    }
}

#[test]
fn the_others_learn_of_a_departure_at_once_in_juju_3_and_at_the_death_in_juju_4() {
    for generation in Generation::BOTH {
        let mut world = deployed(2);
        world.options.generation = generation;
        for unit in ["toy/0", "toy/1", "toy/0"] {
            settle(&mut world, unit, 0);
        }
        world.remove_unit("toy/1").unwrap();
        let told = settle(&mut world, "toy/0", 0);
        let departed = ["peer-relation-departed(toy/1)"];
        assert_eq!(told == departed, generation == Generation::Juju3, "{generation:?}: {told:?}");
        assert_eq!(settle(&mut world, "toy/1", 0), ["peer-relation-departed(toy/0)", "stop", "remove"]);
        let told = settle(&mut world, "toy/0", 0);
        assert_eq!(told == departed, generation == Generation::Juju4, "{generation:?}: {told:?}");
    }
}

#[test]
fn a_withheld_departure_is_told_when_the_agent_starts_again_and_until_then_the_unit_is_listed() {
    let mut world = deployed(2);
    world.options.withhold_departures = true;
    for unit in ["toy/0", "toy/1", "toy/0"] {
        settle(&mut world, unit, 0);
    }
    world.remove_unit("toy/1").unwrap();
    settle(&mut world, "toy/1", 0);
    assert!(!world.units.contains_key("toy/1"));
    assert_eq!(settle(&mut world, "toy/0", 0), [""; 0]);
    assert!(world.units["toy/0"].relations[&0].members.contains_key("toy/1"));
    world.restart_agent("toy/0").unwrap();
    assert_eq!(settle(&mut world, "toy/0", 0), ["peer-relation-departed(toy/1)"]);
}

#[test]
fn a_machine_that_is_gone_leaves_its_number_to_the_next_one_when_that_is_wanted() {
    let mut world = deployed(2);
    world.options.reuse_machines = true;
    world.forget_unit("toy/0");
    let unit = world.add_unit("toy", 0).unwrap();
    assert_eq!((unit.as_str(), world.units[&unit].machine), ("toy/2", 0));
}

#[test]
fn beside_a_queued_hook_commands_run_and_actions_wait() {
    let action = Work::Action { name: "health".to_owned(), params: BTreeMap::new() };
    let exec = Work::Exec { script: "true".to_owned() };
    for (work, runs) in [(action, false), (exec, true)] {
        let mut world = deployed(1);
        settle(&mut world, "toy/0", 0);
        let hook = Op::Plain("update-status");
        world.requeue("toy/0", &hook);
        world.tasks.insert(7, Task::new(7, "toy/0", work, 0));
        world.units.get_mut("toy/0").unwrap().queue.push_back(7);
        let wanted = if runs { Op::Task(7) } else { hook };
        assert_eq!(next(&world, &world.units["toy/0"], 0, &mut |_| 0), Next::Run(wanted));
    }
}

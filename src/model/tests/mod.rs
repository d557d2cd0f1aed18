//! Properties of the rules as a whole: they agree with a second, naive implementation ([`spec`]), and they are pure
//! functions. `world` has the helpers that all tests of the rules share.

pub(crate) mod spec;
pub(crate) mod world;

use proptest::prelude::*;

use crate::model::apply::apply;
use crate::model::auth::Identity;
use crate::model::check;
use crate::model::command::{Command, decode, encode};
use crate::model::effects::{Position, Refusal, Response};
use crate::model::kv::{self, Failure};
use crate::model::txn;
use crate::model::view::View;
use spec::Spec;
use world::{World, any_command, any_range, any_read_txn};

fn refused<T>(answer: Result<T, Failure>) -> Result<T, Refusal> {
    answer.map_err(|failure| match failure {
        Failure::Refusal(refusal) => refusal,
        Failure::View(error) => panic!("{error}"),
    })
}

fn proposable(command: &Command) -> bool {
    !matches!(command, Command::Txn(request) if check::txn(request, 128).is_err())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_commands_gives_the_responses_and_state_of_the_spec(
        commands in prop::collection::vec(any_command(), 1..24),
        reads in prop::collection::vec(any_range(), 1..12),
    ) {
        let (mut world, mut spec) = (World::default(), Spec::default());
        for command in commands.iter().filter(|command| proposable(command)) {
            let expected = spec.run(command);
            prop_assert_eq!(world.run(command).outcome, expected, "{:?}", command);
            prop_assert_eq!(world.view.revision(), spec.revision());
            for key in ["a", "b", "ba", "c", "d"] {
                prop_assert_eq!(world.kv(key), spec.keys().get(key.as_bytes()).cloned());
            }
            for lease in 1..4 {
                let attached = spec.keys().values().filter(|kv| kv.lease == lease).map(|kv| kv.key.clone());
                prop_assert_eq!(world.view.lease_keys(lease).unwrap(), attached.collect::<Vec<_>>());
            }
        }
        for request in &reads {
            prop_assert_eq!(refused(kv::range(&world.view, request)), spec.range(request), "{:?}", request);
        }
    }

    #[test]
    fn equal_states_and_commands_give_equal_effects(
        commands in prop::collection::vec(any_command(), 1..16),
        last in any_command(),
    ) {
        let mut world = World::default();
        commands.iter().for_each(|command| drop(world.run(command)));
        let at = Position { term: 5, index: 99 };
        let first = apply(&world.view, &Identity::nobody(), &last, at).unwrap();
        prop_assert_eq!(&first, &apply(&world.view.clone(), &Identity::nobody(), &last, at).unwrap());
        let (_, reread) = decode(encode(last)).unwrap();
        prop_assert_eq!(first, apply(&world.view, &Identity::nobody(), &reread, at).unwrap());
    }

    #[test]
    fn a_read_only_txn_gives_the_same_response_with_and_without_the_log(
        commands in prop::collection::vec(any_command(), 1..12),
        request in any_read_txn(),
    ) {
        prop_assert!(txn::is_read_only(&request));
        let mut world = World::default();
        commands.iter().for_each(|command| drop(world.run(command)));
        let beside = refused(txn::read_only(&world.view, &request)).map(Response::Txn);
        prop_assert_eq!(beside, world.run(&Command::Txn(request)).outcome);
    }
}

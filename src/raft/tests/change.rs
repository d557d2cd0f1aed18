//! The member list under change.

use super::cluster::{Node, cluster, eventually, follower, leader, listener, rules, soon};
use crate::raft::MemberError;

#[tokio::test]
async fn a_learner_is_added_fed_promoted_and_removed() {
    let mut nodes = cluster(1).await;
    for n in 0..50 {
        nodes[0].put(&format!("k{n}"), "1").await.expect("a cluster of one");
    }
    let (socket, url) = listener().await;
    let added = nodes[0].consensus.member_add(vec![url.clone()], true, soon()).await.expect("a learner is added");
    assert_eq!(added.members.iter().filter(|info| info.is_learner).count(), 1);
    let early = nodes[0].consensus.member_promote(added.affected, soon()).await;
    assert_eq!(early.expect_err("it does not even run"), MemberError::LearnerNotReady);
    let taken = nodes[0].consensus.member_add(vec![url.clone()], false, soon()).await;
    assert_eq!(taken.expect_err("one URL, one member"), MemberError::PeerUrlExists);
    let (_other, other_url) = listener().await;
    let too_many = nodes[0].consensus.member_add(vec![other_url], true, soon()).await;
    assert_eq!(too_many.expect_err("one learner at a time"), MemberError::TooManyLearners);

    let learner = Node::fresh(added.affected, socket, url, rules()).await;
    eventually("the learner is fed", || learner.version("k49") == 1).await;
    learner.consensus.publish("two".into(), vec!["http://c:1".into()], soon()).await.expect("it publishes itself");
    assert!(learner.consensus.status().is_learner);
    let promoted = learner.consensus.member_promote(added.affected, soon()).await.expect("it has caught up");
    assert!(promoted.members.iter().all(|info| !info.is_learner));
    let again = learner.consensus.member_promote(added.affected, soon()).await;
    assert_eq!(again.expect_err("it has its vote"), MemberError::NotLearner);
    nodes.push(learner);
    eventually("both know both", || nodes.iter().all(|node| node.consensus.members().len() == 2)).await;
    nodes[1].put("two", "1").await.expect("both vote now");

    let removed = nodes[0].consensus.member_remove(added.affected, soon()).await.expect("two become one");
    assert_eq!(removed.members.len(), 1);
    let mut expelled = nodes[1].consensus.expelled();
    let told = tokio::time::timeout(super::cluster::PATIENCE, expelled.wait_for(|expelled| *expelled)).await;
    assert!(told.expect("it is told").is_ok(), "the removed member learns that it was removed");
    nodes[0].put("one", "1").await.expect("the one that stays goes on alone");
    let back = nodes[0].consensus.member_remove(added.affected, soon()).await;
    assert_eq!(back.expect_err("its id is spent"), MemberError::NotFound);
}

#[tokio::test]
async fn a_follower_carries_changes_and_the_leader_may_be_removed() {
    let mut nodes = cluster(3).await;
    let at = leader(&nodes).await;
    let (asked, gone) = (follower(&nodes).await, nodes[at].id);
    let removed = nodes[asked].consensus.member_remove(gone, soon()).await.expect("the leader is removed");
    assert_eq!((removed.affected, removed.members.len()), (gone, 2));
    let mut expelled = nodes[at].consensus.expelled();
    let told = tokio::time::timeout(super::cluster::PATIENCE, expelled.wait_for(|expelled| *expelled)).await;
    assert!(told.expect("it is told").is_ok());
    nodes.remove(at).stop().await;
    leader(&nodes).await;
    nodes[0].put("on", "1").await.expect("two members go on");
}

#[tokio::test]
async fn names_and_urls_change_without_touching_votes() {
    let nodes = cluster(3).await;
    let at = follower(&nodes).await;
    let id = nodes[at].id;
    nodes[at].consensus.publish("new".into(), vec!["http://c:9".into()], soon()).await.expect("published");
    let shown = nodes[at].consensus.members();
    let own = shown.iter().find(|info| info.id == id).expect("listed");
    assert_eq!((own.member.name.as_str(), own.is_learner), ("new", false), "visible where it was asked for");
    let extra = vec![nodes[at].url.clone(), "http://127.0.0.1:9".to_owned()];
    let updated = nodes[at].consensus.member_update(id, extra.clone(), soon()).await.expect("updated");
    let own = updated.members.iter().find(|info| info.id == id).expect("listed");
    assert_eq!((own.member.peer_urls.clone(), own.member.name.as_str()), (extra, "new"));
    nodes[at].put("still", "1").await.expect("it is still a voter that is reached");
}

#[tokio::test]
async fn a_member_that_was_away_for_a_snapshot_is_fed_by_files() {
    let mut nodes = cluster(3).await;
    let at = follower(&nodes).await;
    let away = nodes.remove(at).stop().await;
    for n in 0..200 {
        nodes[0].put(&format!("k{n}"), "1").await.expect("two of three");
    }
    let lead = leader(&nodes).await;
    let raft = &nodes[lead].consensus.inner.raft;
    let last = nodes[lead].consensus.status().applied;
    raft.trigger().snapshot().await.expect("consensus runs");
    let covered = || nodes[lead].consensus.inner.snapshot_index() >= last;
    eventually("a snapshot", covered).await;
    raft.trigger().purge_log(last).await.expect("consensus runs");
    eventually("the log is purged", || nodes[lead].consensus.inner.purged_index() >= last).await;
    let back = away.restart().await;
    eventually("the returned member has it all", || back.version("k199") == 1).await;
    back.put("after", "1").await.expect("it goes on from the snapshot");
}

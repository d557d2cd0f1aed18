//! Lease lifetimes in a simulated cluster with a simulated clock: no lease ends before its promised time, and none
//! later than the bound stated in `docs/operating.md`.
//!
//! The lessor, its duties and the rules of apply are real. Simulated are the log with its commits, three members that
//! apply it at their own pace, and their faults. Deposed leaders still believe that they lead for a while; their
//! proposals are lost, kept by the next leader, or committed late; proposals end with an unknown outcome; members
//! pause, restart from an older state, or have their state replaced by a snapshot. Clients grant, renew and revoke
//! leases, and reuse ids. A client relies only on the responses it received.
//!
//! `LEASE_LIVES` sets the number of leases; a failure prints its seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::deadlines::RETRY_AFTER;
use super::duties::{LeaseCheckpoint, LeaseExpiry, SCAN_EVERY};
use super::lessor::{LeaseTable, Lessor};
use super::{Due, DueCommands, Moment, Outcome};
use crate::clock::{Clock, ManualClock};
use crate::model::apply::apply;
use crate::model::auth::Identity;
use crate::model::command::{Command, LeaseGrant, LeaseRevoke};
use crate::model::effects::{LeaseChange, Position, Refusal};
use crate::model::memory::MemoryView;
use crate::model::view::{Lease, View};
use crate::raft::{LeaderDuties, Renewal};
use crate::store::{self, Batch, EventSink, StoreError};

const MEMBERS: usize = 3;
const ELECTION: Duration = Duration::from_secs(1);
/// Timeout of a proposal, the default.
const PATIENCE: Duration = Duration::from_secs(7);
/// Maximum duration of a commit without faults.
const COMMIT: Duration = Duration::from_millis(600);
/// Maximum step of the clock.
const STEP: Duration = Duration::from_millis(250);
/// Leases per world; there are fewer ids, so that each is granted repeatedly.
const LIVES: u64 = 250;
const IDS: i64 = 40;

/// A log entry. Only the leader's log is simulated: entries that only others have are lost.
struct Entry {
    term: u64,
    /// `None` = the blank entry at the start of a term.
    command: Option<Command>,
    /// Number of the proposal attempt that appended it.
    proposal: u64,
    /// When a quorum has stored it.
    stored: Duration,
    /// Its outcome, once a member has applied it.
    outcome: Option<Result<(), Refusal>>,
}

#[derive(Default, Clone)]
struct State {
    view: MemoryView,
    /// Entries applied.
    applied: usize,
    term: u64,
}

#[derive(Clone, Default)]
struct Table(Arc<Mutex<State>>);

impl LeaseTable for Table {
    fn applied_term(&self) -> u64 {
        self.0.lock().term
    }

    fn all(&self) -> Result<Vec<Lease>, StoreError> {
        Ok((1..=IDS).filter_map(|id| self.one(id)).collect())
    }

    fn one(&self, id: i64) -> Option<Lease> {
        self.0.lock().view.lease(id).unwrap()
    }
}

/// A proposal in flight, as seen by the task that waits for it.
struct Flight {
    due: Due,
    number: u64,
    until: Duration,
    /// Index and term in the log; `None` until a leader has appended it.
    place: Option<(usize, u64)>,
    /// It will never be answered: the message was lost, or went to a leader without followers.
    void: bool,
    outcome: Option<Outcome>,
}

/// A duty and its proposals in flight; it is not polled until they end.
struct Duty {
    duty: Box<dyn DueCommands>,
    look: Duration,
    flights: Vec<Flight>,
}

struct Member {
    table: Table,
    /// Its durable state.
    disk: State,
    lessor: Arc<Lessor>,
    /// Expiry, checkpoint.
    duties: [Duty; 2],
    /// The term its consensus believes to lead in; once deposed it believes so for a while longer.
    leads: Option<u64>,
    deposed: Option<Duration>,
    /// The leadership its lessor was last notified of, and when it is notified next.
    told: Option<u64>,
    tell: Duration,
    start: Option<Duration>,
    /// It is paused until then: it applies nothing.
    stands_until: Duration,
}

/// A renewal in flight.
struct Renewing {
    lease: (i64, u64),
    member: usize,
    /// When the leader was asked, and the commit index at that time.
    called: Duration,
    committed: usize,
    confirmed: bool,
    until: Duration,
}

/// What clients know about a lease, and the bounds of its end.
struct Life {
    ttl: Duration,
    /// It must not end before this.
    promised: Duration,
    /// Without faults it must end soon after this.
    due: Duration,
    next_renewal: Option<Duration>,
    renewals: u32,
    period: Duration,
}

#[derive(Debug, Default, Clone, Copy)]
struct Figures {
    lives: u64,
    expired: u64,
    elections: u64,
    renewed: u64,
    not_yet: u64,
    records: u64,
    removals: u64,
    failed: u64,
    refused: u64,
    restarts: u64,
    /// Maximum delay of an expiry after `promised`, and after the start of the bound.
    longest_after_promise: Duration,
    latest: Duration,
}

struct World {
    random: SmallRng,
    clock: Arc<ManualClock>,
    gates: [bool; MEMBERS],
    /// Maximum time between two changes of leader.
    change_every: Duration,
    long: bool,
    log: Vec<Entry>,
    committed: usize,
    term: u64,
    leader: Option<usize>,
    next_change: Duration,
    members: Vec<Member>,
    /// By id and grant.
    lives: BTreeMap<(i64, u64), Life>,
    renewing: Vec<Renewing>,
    grants: Vec<(usize, Flight)>,
    /// Entries that at least one member has applied.
    seen: usize,
    granted: u64,
    calm: bool,
    /// When lease clocks last started, and when a fault last could have delayed an expiry.
    started: Duration,
    trouble: Duration,
    proposals: u64,
    figures: Figures,
}

fn lessor(clock: &Arc<ManualClock>, table: &Table, gate: bool) -> (Arc<Lessor>, [Duty; 2]) {
    let lessor = Lessor::new(clock.clone(), table.clone(), ELECTION, gate);
    let duty = |duty| Duty { duty, look: Duration::ZERO, flights: Vec::new() };
    let duties = [
        duty(Box::new(LeaseExpiry(lessor.clone())) as Box<dyn DueCommands>),
        duty(Box::new(LeaseCheckpoint(lessor.clone()))),
    ];
    (lessor, duties)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let clock = Arc::new(ManualClock::default());
        let gates = match random.random_range(0..4) {
            0 => [false; MEMBERS],
            1 => [true, false, true],
            _ => [true; MEMBERS],
        };
        let members = gates.map(|gate| {
            let table = Table::default();
            let (lessor, duties) = lessor(&clock, &table, gate);
            Member {
                table,
                disk: State::default(),
                lessor,
                duties,
                leads: None,
                deposed: None,
                told: None,
                tell: Duration::ZERO,
                start: None,
                stands_until: Duration::ZERO,
            }
        });
        let long = random.random_bool(0.5);
        let change_every =
            Duration::from_secs(if long { random.random_range(20..3000) } else { random.random_range(2..30) });
        Self {
            random,
            clock,
            gates,
            change_every,
            long,
            log: Vec::new(),
            committed: 0,
            term: 0,
            leader: None,
            next_change: Duration::ZERO,
            members: members.into(),
            lives: BTreeMap::new(),
            renewing: Vec::new(),
            grants: Vec::new(),
            seen: 0,
            granted: 0,
            calm: false,
            started: Duration::ZERO,
            trouble: Duration::ZERO,
            proposals: 0,
            figures: Figures::default(),
        }
    }

    fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    fn chance(&mut self, probability: f64) -> bool {
        !self.calm && self.random.random_bool(probability)
    }

    fn within(&mut self, most: Duration) -> Duration {
        Duration::from_millis(self.random.random_range(0..=most.as_millis() as u64))
    }

    /// How long a quorum takes to store an entry: usually within [`COMMIT`], sometimes longer than [`PATIENCE`].
    fn storing(&mut self) -> Duration {
        if self.chance(0.03) {
            let long = self.within(2 * PATIENCE);
            self.trouble = self.trouble.max(self.now() + long);
            return long;
        }
        self.within(COMMIT)
    }

    fn run(mut self) -> Figures {
        while self.granted < LIVES {
            self.step();
            self.clients();
        }
        // From here on there are no faults and no renewals: every lease must end in time.
        self.calm = true;
        self.lives.values_mut().for_each(|life| life.next_renewal = None);
        self.renewing.clear();
        let longest = self.lives.values().map(|life| life.ttl).max().unwrap_or_default();
        let end = self.now() + longest + 4 * PATIENCE;
        while !self.lives.is_empty() {
            assert!(self.now() < end, "leases that never end: {:?}", self.lives.keys());
            self.step();
        }
        self.figures.lives = self.granted;
        self.figures
    }

    fn step(&mut self) {
        let step = self.within(STEP);
        self.clock.advance(step);
        self.elect();
        self.commit();
        for member in 0..MEMBERS {
            self.befall(member);
            self.tell(member);
            self.apply(member);
            self.start(member);
            for duty in 0..2 {
                self.work(member, duty);
            }
        }
        self.renew();
    }

    // Consensus.

    fn elect(&mut self) {
        let now = self.now();
        if now < self.next_change || (self.calm && self.leader.is_some()) {
            return;
        }
        if let Some(old) = self.leader.take() {
            // The old leader believes that it leads for a while longer.
            let believes = self.within(3 * ELECTION);
            self.members[old].deposed = Some(now + believes);
            // Usually there is no leader for a while; otherwise the next one follows at once.
            if self.random.random_bool(0.7) {
                self.next_change = now + self.within(2 * ELECTION);
                return;
            }
        }
        let new = self.random.random_range(0..MEMBERS);
        self.term += self.random.random_range(1..3);
        let kept = self.random.random_range(self.committed..=self.log.len());
        self.log.truncate(kept);
        self.append(None, 0);
        self.leader = Some(new);
        let member = &mut self.members[new];
        (member.leads, member.deposed) = (Some(self.term), None);
        self.figures.elections += 1;
        self.next_change = now + self.within(self.change_every);
    }

    fn append(&mut self, command: Option<Command>, proposal: u64) -> (usize, u64) {
        let stored = self.now() + self.storing();
        self.log.push(Entry { term: self.term, command, proposal, stored, outcome: None });
        (self.log.len() - 1, self.term)
    }

    /// Entries of earlier terms are committed only with a later entry of the current term, as in Raft.
    fn commit(&mut self) {
        let now = self.now();
        if self.committed == 0 || self.log[self.committed - 1].term != self.term || self.leader.is_none() {
            // No lease can be revoked until a leader has committed the first entry of its term.
            self.trouble = self.trouble.max(now);
        }
        if self.leader.is_none() {
            return;
        }
        let stored = self.log[self.committed..].iter().take_while(|entry| entry.stored <= now);
        let last = stored.enumerate().filter(|(_, entry)| entry.term == self.term).map(|(at, _)| at).last();
        self.committed += last.map_or(0, |at| at + 1);
    }

    /// Random faults of a member: pauses, snapshots, restarts.
    fn befall(&mut self, at: usize) {
        let now = self.now();
        if self.chance(0.002) {
            let until = now + self.within(5 * ELECTION);
            self.members[at].stands_until = until;
            self.trouble = self.trouble.max(until);
        }
        if self.chance(0.01) {
            let member = &mut self.members[at];
            member.disk = member.table.0.lock().clone();
        }
        if self.leader != Some(at) && self.chance(0.0005) {
            // Install a snapshot from the most advanced member.
            let furthest =
                self.members.iter().map(|member| member.table.0.lock().clone()).max_by_key(|state| state.applied);
            let furthest = furthest.expect("there are members");
            let member = &mut self.members[at];
            if furthest.applied > member.table.0.lock().applied {
                store::Moment::alone(|moment| member.lessor.reset(0, -1, moment));
                *member.table.0.lock() = furthest.clone();
                member.disk = furthest;
            }
        }
        if self.chance(0.0005) {
            self.figures.restarts += 1;
            if self.leader == Some(at) {
                self.leader = None;
                self.next_change = now + self.within(2 * ELECTION);
            }
            let down = self.within(4 * ELECTION);
            let member = &mut self.members[at];
            member.table = Table(Arc::new(Mutex::new(member.disk.clone())));
            (member.lessor, member.duties) = lessor(&self.clock, &member.table, self.gates[at]);
            (member.leads, member.deposed, member.told, member.start) = (None, None, None, None);
            member.stands_until = now + down;
            self.renewing.retain(|renewing| renewing.member != at);
            self.grants.retain(|(member, _)| *member != at);
        }
    }

    /// Notifies the lessor of leadership changes, late.
    fn tell(&mut self, at: usize) {
        let now = self.now();
        if self.members[at].deposed.is_some_and(|deposed| deposed <= now) {
            (self.members[at].leads, self.members[at].deposed) = (None, None);
        }
        if self.members[at].leads == self.members[at].told {
            self.members[at].tell = now + self.within(Duration::from_millis(700));
        } else if self.members[at].tell <= now {
            self.tell_now(at);
        }
    }

    fn tell_now(&mut self, at: usize) {
        let member = &mut self.members[at];
        if member.told.is_some() {
            member.lessor.demoted();
        }
        if let Some(term) = member.leads {
            member.lessor.promoted(term);
        }
        member.told = member.leads;
    }

    fn start(&mut self, at: usize) {
        let now = self.now();
        if self.members[at].lessor.start_is_due() {
            self.members[at].start = Some(now + self.within(Duration::from_millis(400)));
        }
        if self.members[at].start.is_some_and(|start| start <= now) {
            self.members[at].start = None;
            self.members[at].lessor.start_clocks().unwrap();
            if self.leader == Some(at) {
                self.started = now;
            }
        }
    }

    fn apply(&mut self, at: usize) {
        while self.members[at].stands_until <= self.now() && self.members[at].table.0.lock().applied < self.committed {
            if self.chance(if self.leader == Some(at) { 0.05 } else { 0.3 }) {
                return;
            }
            self.apply_one(at);
        }
    }

    fn apply_one(&mut self, at: usize) {
        let (now, table) = (self.now(), self.members[at].table.clone());
        let index = table.0.lock().applied;
        let term = self.log[index].term;
        let position = Position { term, index: index as u64 + 1 };
        let effects = self.log[index]
            .command
            .as_ref()
            .map(|command| apply(&table.0.lock().view, &Identity::nobody(), command, position).unwrap());
        let leases = effects.as_ref().map(|effects| effects.leases.clone()).unwrap_or_default();
        let batch = Batch { leases, applied_term: term, ..Batch::default() };
        let batch = Arc::new(batch);
        self.members[at].lessor.publish(&batch);
        if self.members[at].leads != self.members[at].told && self.random.random_bool(0.1) {
            self.tell_now(at);
        }
        store::Moment::alone(|moment| {
            let mut state = table.0.lock();
            effects.iter().for_each(|effects| state.view.absorb(effects));
            (state.applied, state.term) = (index + 1, term);
            drop(state);
            self.members[at].lessor.show(&batch, moment);
        });
        let outcome = effects.map_or(Ok(()), |effects| effects.outcome.map(|_| ()));
        self.log[index].outcome.get_or_insert(outcome);
        let first = index >= self.seen;
        self.seen = self.seen.max(index + 1);
        let by_expiry =
            matches!(&self.log[index].command, Some(Command::LeaseRevoke(LeaseRevoke { expired_by_term: 1.., .. })));
        for change in &batch.leases {
            self.observe(*change, first, at, by_expiry, now);
        }
    }

    /// Updates the clients' view after a lease change.
    fn observe(&mut self, change: LeaseChange, first: bool, at: usize, by_expiry: bool, now: Duration) {
        match change {
            LeaseChange::Granted(lease) => {
                let ttl = Duration::from_secs(lease.ttl as u64);
                if first {
                    let renewals = if self.random.random_bool(0.3) { 0 } else { self.random.random_range(1..12) };
                    let period = ttl.mul_f64(self.random.random_range(0.05..0.9));
                    let life = Life {
                        ttl,
                        promised: now + ttl,
                        due: now + ttl,
                        next_renewal: Some(now + period),
                        renewals,
                        period,
                    };
                    self.lives.insert((lease.id, lease.granted), life);
                    self.granted += 1;
                } else if self.leader == Some(at) && self.members[at].told == Some(self.term) {
                    // The leader's deadline starts when it applies the grant.
                    if let Some(life) = self.lives.get_mut(&(lease.id, lease.granted)) {
                        life.due = life.due.max(now + ttl);
                    }
                }
            }
            LeaseChange::Recorded(lease) if first && lease.remaining > 0 => self.figures.records += 1,
            LeaseChange::Recorded(_) if first => self.figures.removals += 1,
            LeaseChange::Remove(id) if first => {
                let living = self.lives.range((id, 0)..=(id, u64::MAX)).next().map(|(key, _)| *key);
                let key = living.expect("what is removed was granted");
                let life = self.lives.remove(&key).expect("it lives");
                if by_expiry {
                    self.ended(key, &life, now);
                }
            }
            _ => {}
        }
    }

    fn ended(&mut self, key: (i64, u64), life: &Life, now: Duration) {
        assert!(
            life.promised <= now,
            "lease {key:?} of {:?} ended at {now:?}, promised until {:?}",
            life.ttl,
            life.promised
        );
        // The bound of docs/operating.md starts at the last renewal, change of leader or failed proposal.
        let begins = life.due.max(self.started + life.ttl + ELECTION).max(self.trouble);
        let bound = begins + SCAN_EVERY + RETRY_AFTER + COMMIT + 3 * STEP;
        assert!(now <= bound, "lease {key:?} of {:?} ended at {now:?}, at the latest it should at {bound:?}", life.ttl);
        self.figures.expired += 1;
        self.figures.longest_after_promise = self.figures.longest_after_promise.max(now - life.promised);
        self.figures.latest = self.figures.latest.max(now.saturating_sub(begins));
    }

    // Proposals.

    fn flight(&mut self, due: Due) -> Flight {
        self.proposals += 1;
        let (until, void) = (self.now() + PATIENCE, self.chance(0.03));
        if void {
            self.trouble = self.trouble.max(until);
        }
        Flight { due, number: self.proposals, until, place: None, void, outcome: None }
    }

    fn work(&mut self, at: usize, which: usize) {
        let (now, duty) = (self.now(), &mut self.members[at].duties[which]);
        if duty.flights.is_empty() {
            let urgent = which == 1 && self.random.random_bool(0.3);
            if now < duty.look && !urgent {
                return;
            }
            duty.look = now + SCAN_EVERY;
            let leading = self.members[at].leads.is_some();
            let due = self.members[at].duties[which].duty.due(Moment { now, unix: now, leading });
            let flights = due.into_iter().map(|due| self.flight(due)).collect();
            self.members[at].duties[which].flights = flights;
        }
        let mut flights = std::mem::take(&mut self.members[at].duties[which].flights);
        flights.iter_mut().for_each(|flight| self.fly(at, flight));
        if flights.iter().all(|flight| flight.outcome.is_some()) {
            for flight in &flights {
                let outcome = flight.outcome.as_ref().expect("all ended");
                self.members[at].duties[which].duty.done(&flight.due, outcome, now);
                let slow = now + PATIENCE > flight.until + COMMIT + 3 * STEP;
                let failed = matches!(outcome, Outcome::Failed(_));
                self.figures.failed += u64::from(failed);
                self.figures.refused += u64::from(matches!(outcome, Outcome::Refused(_)));
                if failed || slow {
                    self.trouble = self.trouble.max(now);
                }
            }
            flights.clear();
        }
        self.members[at].duties[which].flights = flights;
    }

    /// Advances a proposal that a task on member `at` waits for.
    fn fly(&mut self, at: usize, flight: &mut Flight) {
        if flight.outcome.is_some() {
            return;
        }
        let failed = |why: &str| Some(Outcome::Failed(why.to_owned()));
        if let Some((index, term)) = flight.place {
            let kept = self.log.get(index).is_some_and(|entry| (entry.term, entry.proposal) == (term, flight.number));
            if !kept {
                flight.outcome = failed("discarded");
            } else if self.members[at].table.0.lock().applied > index {
                let outcome = self.log[index].outcome.expect("applied");
                flight.outcome = Some(outcome.map_or_else(Outcome::Refused, |()| Outcome::Done));
            }
        } else if !flight.void && self.leader.is_some() {
            let Due::Propose(command) = &flight.due else { unreachable!("leases propose only") };
            let (leads, believes) = (self.leader == Some(at), self.members[at].leads.is_some());
            if self.random.random_bool(if leads { 0.8 } else { 0.3 }) {
                if leads || !believes {
                    // Appended here, or forwarded to the current leader.
                    flight.place = Some(self.append(Some(command.clone()), flight.number));
                } else {
                    // Appended to the log of a deposed leader, or retried.
                    flight.void = self.random.random_bool(0.3);
                }
            }
        }
        if flight.outcome.is_none() && flight.until <= self.now() {
            flight.outcome = failed("nobody knows");
        }
    }

    // Clients.

    fn clients(&mut self) {
        let now = self.now();
        if self.grants.len() < 3 && self.random.random_bool(if self.long { 0.02 } else { 0.1 }) {
            let id = self.random.random_range(1..=IDS);
            let ttl = if self.long { self.random.random_range(200..1200) } else { self.random.random_range(2..40) };
            let command = if self.random.random_bool(0.98) {
                Command::LeaseGrant(LeaseGrant { id, ttl })
            } else {
                Command::LeaseRevoke(LeaseRevoke { ids: vec![id], ..LeaseRevoke::default() })
            };
            let flight = self.flight(Due::Propose(command));
            let at = self.random.random_range(0..MEMBERS);
            self.grants.push((at, flight));
        }
        for (at, mut flight) in std::mem::take(&mut self.grants) {
            self.fly(at, &mut flight);
            if flight.outcome.is_none() {
                self.grants.push((at, flight));
            }
        }
        let committed = self.committed;
        let believers: Vec<usize> = (0..MEMBERS).filter(|at| self.members[*at].leads.is_some()).collect();
        if believers.is_empty() {
            return;
        }
        for (lease, life) in &mut self.lives {
            if life.next_renewal.is_some_and(|next| next <= now) {
                life.renewals = life.renewals.saturating_sub(1);
                life.next_renewal = (life.renewals > 0).then_some(now + life.period);
                let member = believers[self.random.random_range(0..believers.len())];
                let until = now + PATIENCE;
                self.renewing.push(Renewing { lease: *lease, member, called: now, committed, confirmed: false, until });
            }
        }
    }

    /// Simulates `Consensus::as_leader` and the retry loop around it.
    fn renew(&mut self) {
        let now = self.now();
        for mut renewing in std::mem::take(&mut self.renewing) {
            let at = renewing.member;
            if now >= renewing.until || self.members[at].leads.is_none() {
                continue;
            }
            if !renewing.confirmed && self.leader == Some(at) {
                let state = self.members[at].table.0.lock();
                renewing.confirmed = state.applied >= renewing.committed && state.term == self.term;
            }
            if renewing.confirmed && self.random.random_bool(0.6) {
                let term = self.members[at].leads.expect("looked at above");
                let renewal = self.members[at].lessor.renew(renewing.lease.0, term);
                let life = self.lives.get_mut(&renewing.lease);
                if let (Some(life), Renewal::Renewed(_) | Renewal::NotYet) = (life, renewal) {
                    life.due = life.due.max(now + life.ttl);
                    if renewal != Renewal::NotYet && now < renewing.called + ELECTION {
                        life.promised = life.promised.max(now + life.ttl);
                        self.figures.renewed += 1;
                    }
                }
                self.figures.not_yet += u64::from(renewal == Renewal::NotYet);
                if renewal == Renewal::NotYet || now >= renewing.called + ELECTION {
                    (renewing.called, renewing.committed, renewing.confirmed) = (now, self.committed, false);
                    self.renewing.push(renewing);
                }
                continue;
            }
            if now >= renewing.called + ELECTION {
                (renewing.called, renewing.committed, renewing.confirmed) = (now, self.committed, false);
            }
            self.renewing.push(renewing);
        }
    }
}

fn total(figures: &[Figures]) -> Figures {
    figures.iter().fold(Figures::default(), |sum, one| Figures {
        lives: sum.lives + one.lives,
        expired: sum.expired + one.expired,
        elections: sum.elections + one.elections,
        renewed: sum.renewed + one.renewed,
        not_yet: sum.not_yet + one.not_yet,
        records: sum.records + one.records,
        removals: sum.removals + one.removals,
        failed: sum.failed + one.failed,
        refused: sum.refused + one.refused,
        restarts: sum.restarts + one.restarts,
        longest_after_promise: sum.longest_after_promise.max(one.longest_after_promise),
        latest: sum.latest.max(one.latest),
    })
}

#[test]
fn no_lease_ends_before_its_promised_time_or_later_than_the_bound() {
    let lives: u64 =
        std::env::var("LEASE_LIVES").map_or(10_000, |lives| lives.parse().expect("LEASE_LIVES is a number"));
    let first: u64 = std::env::var("LEASE_SEED").map_or(0, |seed| seed.parse().expect("LEASE_SEED is a number"));
    let figures: Vec<Figures> = (first..first + lives.div_ceil(LIVES))
        .map(|seed| {
            let run = std::panic::AssertUnwindSafe(|| World::new(seed).run());
            std::panic::catch_unwind(run).unwrap_or_else(|failure| {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(failure)
            })
        })
        .collect();
    let total = total(&figures);
    println!("{total:?}");
    // Without faults the test would prove nothing.
    let happened = [total.expired, total.elections, total.renewed, total.not_yet, total.records, total.removals];
    assert!(
        happened.into_iter().chain([total.failed, total.refused, total.restarts]).all(|count| count > 0),
        "{total:?}"
    );
}

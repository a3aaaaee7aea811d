//! Two packets at once on two CPUs, in every order of their accesses to the tables.
//!
//! Each operation runs on a separate thread; one of them runs at a time. Before each access to a
//! table that packets change, and after each lookup, either may continue. Orders that lead to the
//! same tables, with both operations having seen the same, continue in the same way and are tried
//! once. Where there are more than some thousands, that many are tried (of IPv6 a hundred), drawn
//! at random with a seed that stays the same; with `NATBPF_RACES=all` all of them, with
//! `NATBPF_RACES=100` a hundred.

use std::{
    cell::RefCell,
    collections::HashSet,
    fmt::Debug,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
};

use nat_common::{
    tables::{
        guests::Guest, mappings::MappingRecord, ports::PortOwner, references::References,
        sessions::Session,
    },
    wire::address::Address,
};

use crate::{ipv4, octets::Octets, world::World};

/// How many orders are tried of one pair of operations, unless all are.
const MAX_ORDERS: usize = 2000;

/// More steps than any two operations have, unless they wait for each other.
const MAX_STEPS: usize = 2000;

thread_local! {
    static ACTOR: RefCell<Option<Actor>> = const { RefCell::new(None) };
}

/// One of the two operations.
struct Actor {
    number: usize,
    turns: Arc<Turns>,
    world: *const dyn Contents,
    /// Whether it has just looked the last of the entries up.
    is_fresh: bool,
    /// All that it has learned from the tables so far.
    learned: u64,
    /// What decides which port it tries next.
    chance: u64,
}

/// What has tables that packets change.
trait Contents {
    /// All that is in them, as text.
    fn contents(&self) -> Vec<String>;
}

impl<I: Octets> Contents for World<I> {
    fn contents(&self) -> Vec<String> {
        self.tables.contents()
    }
}

/// An entry as a packet sees it.
pub trait Seen: Debug {
    /// What it may still read there when it has moved to other entries.
    fn gist(&self) -> u64 {
        0
    }
}

impl<A: Address> Seen for Session<A> {
    fn gist(&self) -> u64 {
        u64::from(self.seen_s.load()) << 32 | u64::from(self.state.load())
    }
}

impl<A: Address> Seen for PortOwner<A> {
    fn gist(&self) -> u64 {
        self.references.is_gone().into()
    }
}

impl Seen for References {
    fn gist(&self) -> u64 {
        self.is_gone().into()
    }
}

impl<A: Address> Seen for MappingRecord<A> {}
impl Seen for Guest {}

/// Before an access to a table that packets change.
pub fn before(access: &str, key: &dyn Debug) {
    with_actor(|actor| {
        actor.learn(&format!("{access} {key:?}"));
        if access == "add port" || access == "random" {
            actor.chance = hash(&(actor.chance, format!("{access} {key:?}")));
        }
        actor.take_turn(false);
    });
}

/// After a look-up.
pub fn found<V: Seen>(entry: Option<&V>) {
    with_actor(|actor| {
        actor.learn(&entry.is_some());
        if let Some(entry) = entry {
            actor.is_fresh = true;
            // SAFETY: only the lifetime changes: entries live as long as their table, which
            // outlives the operation.
            let entry = unsafe { std::mem::transmute::<&dyn Seen, &'static dyn Seen>(entry) };
            actor.turns.lock().seen[actor.number].0.push(entry);
            actor.take_turn(false);
        }
    });
}

/// After an entry was or was not added.
pub fn added(is_added: bool) {
    with_actor(|actor| actor.learn(&is_added));
}

/// The operation restarts, and the other one runs in between.
pub fn pause() {
    with_actor(|actor| {
        actor.turns.lock().seen[actor.number].0.clear();
        actor.learned = actor.chance;
        actor.take_turn(true);
    });
}

fn with_actor(act: impl FnOnce(&mut Actor)) {
    ACTOR.with_borrow_mut(|actor| {
        if let Some(actor) = actor {
            act(actor);
        }
    });
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Actor {
    fn learn(&mut self, value: &impl Hash) {
        self.learned = hash(&(self.learned, hash(value)));
    }

    fn take_turn(&mut self, pauses: bool) {
        // SAFETY: the world outlives the threads, and only the one whose turn it is looks.
        let world = unsafe { &*self.world };
        let learned = (self.learned, self.is_fresh);
        let seen = self.turns.pass(self.number, pauses, learned, world);
        self.learn(&seen);
        self.is_fresh = false;
    }
}

/// Whose turn it is.
struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    turn: usize,
    is_done: [bool; 2],
    is_paused: [bool; 2],
    /// Entries that each has looked up, whose words it may read at any later step.
    seen: [Entries; 2],
    learned: [(u64, bool); 2],
    /// Who has had each turn.
    taken: Vec<usize>,
    /// Who is to have the first ones.
    given: Vec<usize>,
    /// What is still to be tried.
    untried: Vec<Vec<usize>>,
    /// Where all has been tried that may follow.
    known: HashSet<u64>,
    /// Whether this order has come to such a place.
    is_known: bool,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Lets the other one run, and waits until it is the turn of `number`. Returns what it then
    /// sees of the entries that it knows.
    fn pass(&self, number: usize, pauses: bool, learned: (u64, bool), world: &dyn Contents) -> u64 {
        let mut state = self.lock();
        state.is_paused[number] = pauses;
        state.learned[number] = learned;
        state.choose(number, world);
        if state.turn != number {
            self.changed.notify_all();
        }
        while state.turn != number {
            state = self.changed.wait(state).unwrap();
        }
        state.sees(number)
    }

    fn wait_for_first(&self, number: usize) {
        let mut state = self.lock();
        while state.turn != number {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn end(&self, number: usize) {
        let mut state = self.lock();
        state.is_done[number] = true;
        state.turn = 1 - number;
        self.changed.notify_all();
    }
}

/// Entries that only one thread at a time looks at.
#[derive(Default)]
struct Entries(Vec<&'static dyn Seen>);

// SAFETY: only the thread whose turn it is looks at them, and turns are passed under a lock.
unsafe impl Send for Entries {}

impl State {
    /// What the entries say that one of them has looked up.
    fn sees(&self, number: usize) -> u64 {
        let Entries(seen) = &self.seen[number];
        let gists: Vec<u64> = seen.iter().map(|entry| entry.gist()).collect();
        let fresh = seen.last().filter(|_| self.learned[number].1);
        hash(&(gists, fresh.map(|entry| format!("{entry:?}"))))
    }

    fn choose(&mut self, current: usize, world: &dyn Contents) {
        let other = 1 - current;
        self.turn = if self.is_done[other] {
            current
        } else if let Some(&turn) = self.given.get(self.taken.len()) {
            turn
        } else if self.is_paused[current] {
            other
        } else if self.is_known || self.is_paused[other] || !self.is_new(current, world) {
            current
        } else {
            self.untried
                .push([self.taken.as_slice(), &[other]].concat());
            current
        };
        self.taken.push(self.turn);
        self.is_paused[self.turn] = false;
        assert!(self.taken.len() < MAX_STEPS, "they wait for each other");
    }

    /// Whether both have never been here with the tables as they are.
    fn is_new(&mut self, current: usize, world: &dyn Contents) -> bool {
        let seen = [self.sees(0), self.sees(1)];
        let here = hash(&(current, self.learned, seen, world.contents()));
        self.is_known = !self.known.insert(here);
        !self.is_known
    }
}

/// What a packet or the daemon does.
type Operation<'o, I, R> = &'o (dyn Fn(&World<I>) -> R + Sync);

/// Runs two operations in every order on worlds made by `world`, and looks at each outcome. Gives
/// how many orders were tried.
pub fn every_order<I: Octets, R: Send>(
    world: impl Fn() -> World<I>,
    operations: [Operation<'_, I, R>; 2],
    check: impl Fn(&World<I>, [R; 2]),
) -> usize {
    let (mut known, mut untried) = (HashSet::new(), vec![vec![0], vec![1]]);
    let most = match std::env::var("NATBPF_RACES").as_deref() {
        Ok("all") => usize::MAX,
        Ok(number) => number
            .parse()
            .expect("NATBPF_RACES: all, or a number of orders"),
        // The families differ in no order: one of them is tried thoroughly.
        Err(_) => MAX_ORDERS / if I::HEADER == ipv4::HEADER { 1 } else { 20 },
    };
    let (mut tried, mut seed) = (0, 1_u32);
    while !untried.is_empty() && tried < most {
        tried += 1;
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let given = untried.swap_remove((seed >> 8) as usize % untried.len());
        let world = world();
        let turns = Arc::new(Turns {
            state: Mutex::new(State {
                turn: given[0],
                is_done: [false; 2],
                is_paused: [false; 2],
                seen: Default::default(),
                learned: [(0, false); 2],
                taken: vec![given[0]],
                given,
                untried: std::mem::take(&mut untried),
                known: std::mem::take(&mut known),
                is_known: false,
            }),
            changed: Condvar::new(),
        });
        let results = run(&world, &turns, operations);
        let mut state = turns.lock();
        (known, untried) = (
            std::mem::take(&mut state.known),
            std::mem::take(&mut state.untried),
        );
        let order = std::mem::take(&mut state.taken);
        drop(state);
        let shown = Shown(order);
        check(&world, results);
        std::mem::forget(shown);
    }
    tried
}

/// Shows the order of turns in which a check has failed.
struct Shown(Vec<usize>);

impl Drop for Shown {
    fn drop(&mut self) {
        eprintln!("turns: {:?}", self.0);
    }
}

/// A world that two threads use alternately.
#[derive(Clone, Copy)]
struct InTurns<'w, I: Octets>(&'w World<I>);

// SAFETY: only the thread whose turn it is uses it, and turns are passed under a lock.
unsafe impl<I: Octets> Send for InTurns<'_, I> {}

fn run<I: Octets, R: Send>(
    world: &World<I>,
    turns: &Arc<Turns>,
    operations: [Operation<'_, I, R>; 2],
) -> [R; 2] {
    let world = InTurns(world);
    thread::scope(|scope| {
        let threads = [0, 1].map(|number| {
            let (operation, turns) = (operations[number], Arc::clone(turns));
            scope.spawn(move || {
                let world = world;
                let InTurns(world) = world;
                turns.wait_for_first(number);
                ACTOR.set(Some(Actor {
                    number,
                    turns: Arc::clone(&turns),
                    world,
                    is_fresh: false,
                    learned: 0,
                    chance: 0,
                }));
                let result = operation(world);
                ACTOR.set(None);
                turns.end(number);
                result
            })
        });
        threads.map(|thread| thread.join().unwrap())
    })
}

//! The maps, and the tables that the pipeline sees in them.
//!
//! All maps are pinned by their names. Sizes written here are replaced by the loader. Tables with
//! addresses are those of the family; the others are shared.

use core::{
    ffi::c_void,
    ptr::{self, NonNull},
};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{
        bpf_get_prandom_u32,
        generated::{bpf_ktime_get_coarse_ns, bpf_loop},
    },
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use nat_common::{
    atomics::Shared,
    drop_reason::{DROP_REASONS, DropReason},
    family::Family,
    session::adoption::Adopted,
    tables::{
        addresses::{AddressKey, ExternalAddress, ExternalAddresses},
        bindings::{Binding, BindingRecord, Bindings, Name},
        counters::{Counters, RuleCounters, Traffic},
        datagrams::{Datagram, Datagrams},
        environment::Environment,
        excludes::{ExcludeKey, Excludes},
        forward_sources::{ForwardSource, ForwardSourceKey, ForwardSources},
        forwards::{Forward, ForwardKey, Forwards, OTHER_PROTOCOLS},
        fragments::{FragmentKey, FragmentPorts, Fragments},
        guests::{Guest, GuestKey, GuestRecord, Guests},
        host::{HostSocket, HostSockets},
        insert::InsertError,
        inside::{Inside, InsideAddresses, InsideKey},
        interfaces::{CACHED_INTERFACES, CachedInterface, Interface, Interfaces},
        mappings::{MappingKey, MappingRecord, Mappings},
        next_hops::{self, NextHop, NextHopKey, NextHopRecord, NextHops, Tag},
        origin::Origin,
        permits::{PermitKey, Permits},
        policies::{Chain, ChainKey, MAX_POLICIES, Policies, Policy},
        ports::{PortKey, PortOwner, PortRecord, Ports},
        queued::{Queued, QueuedFragments},
        references::References,
        refusals::{RATE_LIMITERS, RateLimiters},
        routes::Routes,
        rules::{RuleFlags, Rules},
        sessions::{Session, SessionKey, SessionRecord, Sessions},
        settings::{CurrentSettings, Settings},
        snats::{Snat, SnatKey, Snats},
        uplinks::{EXITS, UPLINKS, Uplink, Uplinks},
    },
    verifier::verifier_barrier,
    wire::{
        address::{Endpoint, Port},
        protocol::{TCP, UDP},
    },
    work::Work,
};

use crate::{
    family::{
        self, ADDRESSES, Addr, CHAINS, DATAGRAMS, EXCLUDES, FORWARD_SOURCES, FORWARDS, FRAGMENTS,
        GUESTS, INSIDE, MAPPINGS, PERMITS, POLICIES, PORTS, QUEUED, Room, SESSIONS, SNATS,
    },
    route,
    skb::Saved,
    socket,
};

/// Nanoseconds in a second of the sessions' clocks. The loader writes fewer to test in minutes what
/// takes a day.
#[unsafe(no_mangle)]
static NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;
/// The most recorded flows of the host. The loader writes a share of the table.
#[unsafe(no_mangle)]
static HOST_SESSIONS: u32 = 65_536;
/// Whether the kernel has the helper that knows IPsec. The loader writes 1 where it has.
#[unsafe(no_mangle)]
static HAS_XFRM: u32 = 0;
const EEXIST: i32 = -17;

/// Which port has which name, if guests are bound to their ports.
#[map]
static BINDINGS: HashMap<Name, BindingRecord> = HashMap::pinned(65_536, 1);
/// How many names each port has.
#[map]
static NAMES: HashMap<u32, u32> = HashMap::pinned(4096, 0);
#[map]
static INTERFACES: HashMap<u32, Interface> = HashMap::pinned(4096, 0);
/// The content of [`INTERFACES`], as far as there is room, for lookups without a search.
#[map]
static INTERFACE_CACHE: Array<CachedInterface> = Array::pinned(CACHED_INTERFACES, 0);
/// The uplinks by which guests' packets leave, from place 0 on.
#[map(name = "UPLINKS")]
static WAYS_OUT: Array<Uplink> = Array::pinned(UPLINKS, 0);
/// Interfaces by which packets may leave while an uplink is missing.
#[map(name = "EXITS")]
static KNOWN_EXITS: HashMap<u32, u8> = HashMap::pinned(EXITS, 1);
#[map]
static SETTINGS: Array<Settings> = Array::pinned(1, 0);
#[map]
static NEXT_HOPS: Array<NextHopRecord> = Array::pinned(next_hops::SLOTS, 0);
#[map]
static NEXT_HOP_TAGS: HashMap<NextHopKey, Tag> = HashMap::pinned(next_hops::SLOTS, 0);
/// Until when sessions may take the fast path, in seconds of the monotonic clock: the daemon, which
/// maintains the next hops, renews it.
#[map]
static FAST_UNTIL: Array<u32> = Array::pinned(1, 0);
/// Flags by the number of the rule.
#[map]
static RULES: Array<RuleFlags> = Array::pinned(1024, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<RuleCounters> = PerCpuArray::pinned(1024, 0);
#[map]
pub(crate) static DROPS: PerCpuArray<u64> = PerCpuArray::pinned(DROP_REASONS, 0);

/// When guests last received errors about refused packets.
#[map]
static REFUSALS: Array<u32> = Array::with_max_entries(RATE_LIMITERS, 0);

/// The work area: a packet's headers and state during its processing.
#[map]
static WORK: PerCpuArray<Work<Addr>> = PerCpuArray::with_max_entries(1, 0);

/// The session that is being adopted.
#[map]
static ADOPTING: PerCpuArray<Adopting> = PerCpuArray::with_max_entries(1, 0);

/// A fragmented packet without any part: too large for the stack.
#[map]
static NO_DATAGRAM: Array<Datagram> = Array::with_max_entries(1, 0);

/// The packet that is set aside while queued fragments are sent.
#[map]
static SAVED: PerCpuArray<Saved> = PerCpuArray::with_max_entries(1, 0);

/// Adds to a count by one instruction.
///
/// # Safety
///
/// The pointer must be valid and aligned.
#[inline(always)]
pub(crate) unsafe fn add_at_once(count: *mut u64, more: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the instruction changes that word alone.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({count} + 0) += {more}",
            count = in(reg) count,
            more = in(reg) more,
            options(nostack),
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as the caller promises.
    unsafe {
        *count += more;
    }
}

/// Room to set a packet aside on this CPU.
///
/// # Safety
///
/// Only programs at the hooks may call it. One of them at a time runs on a CPU, and no two borrows
/// may exist at once.
#[inline(always)]
pub(crate) unsafe fn saved_packet<'a>() -> Option<&'a mut Saved> {
    // SAFETY: the slot is this CPU's own, and there is no other borrow. Zeroes are a valid value.
    SAVED.get_ptr_mut(0).map(|saved| unsafe { &mut *saved })
}

/// This CPU's work area.
///
/// # Safety
///
/// Only programs at the hooks may call it, each of them once; one of them at a time runs on a CPU.
/// Those that the daemon runs may be interrupted by these before Linux 6.3 (`bpf_test_run`,
/// `net/bpf/test_run.c`): they have [`adopting`].
#[inline(always)]
pub(crate) unsafe fn work_area<'a>() -> Option<&'a mut Work<Addr>> {
    // SAFETY: the slot is this CPU's own, and there is no other borrow. Zeroes are a valid value,
    // and so is what a packet before left behind.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// What the adoption of a session needs: too large for the stack, and no packet's.
#[repr(C)]
pub(crate) struct Adopting {
    /// The session.
    pub(crate) adopted: Adopted<Addr>,
    /// Its entries.
    pub(crate) work: Work<Addr>,
}

/// Room for the session that is being adopted on this CPU.
///
/// # Safety
///
/// Only the program that the daemon runs for it, one at a time, may call it, once.
#[inline(always)]
pub(crate) unsafe fn adopting<'a>() -> Option<&'a mut Adopting> {
    // SAFETY: the slot is this CPU's own, and there is no other borrow. Zeroes are a valid value.
    ADOPTING
        .get_ptr_mut(0)
        .map(|adopting| unsafe { &mut *adopting })
}

/// Counts a dropped packet.
#[inline(always)]
pub(crate) fn count_drop(reason: DropReason) {
    if let Some(count) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the slot is a valid one of this CPU. Programs that the daemon runs also count
        // there, and a packet may interrupt them, so it is one instruction.
        unsafe { add_at_once(count, 1) };
    }
}

/// Whether [`HAS_XFRM`] is set. If it is not, the verifier removes dependent code.
#[inline(always)]
pub(crate) fn has_xfrm() -> bool {
    // SAFETY: the pointer is that of a constant; volatile, since the compiler does not know that
    // the loader may have written another.
    unsafe { (&raw const HAS_XFRM).read_volatile() != 0 }
}

/// Calls `step` until it returns false, in the kernel's own loop: the verifier checks one
/// iteration, instead of all iterations of an unrolled loop.
#[inline(always)]
fn repeat<F: FnMut(u32) -> bool>(times: u32, step: &mut F) {
    unsafe extern "C" fn turn<F: FnMut(u32) -> bool>(index: u64, step: *mut c_void) -> u64 {
        // SAFETY: the kernel passes on the pointer that it received below.
        let step = unsafe { &mut *step.cast::<F>() };
        let mut stop = u64::from(!step(index as u32));
        // The compiler may know that this is 0 or 1, but the verifier does not.
        verifier_barrier(&mut stop);
        stop & 1
    }
    let turn: unsafe extern "C" fn(u64, *mut c_void) -> u64 = turn::<F>;
    // SAFETY: the callback has the signature that the helper needs, and `step` outlives it.
    unsafe { bpf_loop(times, turn as *mut c_void, ptr::from_mut(step).cast(), 0) };
}

/// The maps as the pipeline's tables, in the network namespace of a program's packet or socket.
pub(crate) struct Maps {
    ctx: *mut c_void,
    /// Room for the keys of lookups.
    pub(crate) room: Room,
}

impl Maps {
    #[inline(always)]
    pub(crate) fn new(ctx: *mut c_void, room: Room) -> Self {
        Self { ctx, room }
    }
}

/// Length of a whole key of a longest-prefix match in bits.
pub(crate) const fn bits<K>() -> u32 {
    8 * size_of::<K>() as u32
}

/// The same up to the port, which only padding follows.
const fn bits_to_port<K>() -> u32 {
    bits::<K>() - 16
}

#[inline(always)]
fn insert_error(code: i32) -> InsertError {
    if code == EEXIST {
        InsertError::Exists
    } else {
        InsertError::Full
    }
}

/// Borrows a map's value as the type that packets share.
///
/// # Safety
///
/// `T` must have the layout of the map's value, with atomics for what changes.
#[inline(always)]
unsafe fn shared<'a, T>(value: Option<*mut impl Sized>) -> Option<&'a T> {
    // SAFETY: the kernel returns a pointer to a whole value that stays readable while the program
    // runs; a recycled slot contains another valid value.
    value
        .and_then(NonNull::new)
        .map(|value| unsafe { value.cast::<T>().as_ref() })
}

impl Bindings for Maps {
    #[inline(always)]
    fn binding(&self, name: &Name) -> Option<&Binding> {
        // SAFETY: `Binding` is `BindingRecord` with atomics.
        unsafe { shared(BINDINGS.get_ptr_mut(name)) }
    }

    #[inline(always)]
    fn add_binding(&self, name: &Name, record: &BindingRecord) -> Result<(), InsertError> {
        BINDINGS
            .insert(name, record, u64::from(BPF_NOEXIST))
            .map_err(insert_error)
    }

    #[inline(always)]
    fn names(&self, port: u32) -> Option<&Shared> {
        // SAFETY: `Shared` is a word.
        unsafe { shared(NAMES.get_ptr_mut(port)) }
    }
}

impl Environment for Maps {
    #[inline(always)]
    fn now_s(&self) -> u32 {
        // SAFETY: reads a clock.
        let nanoseconds = unsafe { bpf_ktime_get_coarse_ns() };
        // SAFETY: the pointer is that of a constant; volatile, since the compiler does not know
        // that the loader may have written another.
        let second = unsafe { (&raw const NANOSECONDS_PER_SECOND).read_volatile() };
        nanoseconds.checked_div(second).unwrap_or(0) as u32
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: reads the kernel's generator.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn repeat(&self, times: u32, mut step: impl FnMut(u32) -> bool) {
        repeat(times, &mut step);
    }

    #[inline(always)]
    fn pause(&self) {}
}

impl CurrentSettings for Maps {
    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }
}

impl Sessions<Addr> for Maps {
    #[inline(always)]
    fn host_sessions(&self) -> u32 {
        // SAFETY: the pointer is that of a constant; volatile, since the compiler does not know
        // that the loader may have written another.
        unsafe { (&raw const HOST_SESSIONS).read_volatile() }
    }

    #[inline(always)]
    fn session(&self, key: &SessionKey<Addr>) -> Option<&Session<Addr>> {
        // SAFETY: `Session` is `SessionRecord` with atomics.
        unsafe { shared(SESSIONS.get_ptr_mut(self.room.key(key))) }
    }

    #[inline(always)]
    fn add_session(
        &self,
        key: &SessionKey<Addr>,
        record: &SessionRecord<Addr>,
    ) -> Result<(), InsertError> {
        SESSIONS
            .insert(self.room.key(key), record, u64::from(BPF_NOEXIST))
            .map_err(insert_error)
    }

    #[inline(always)]
    fn remove_session(&self, key: &SessionKey<Addr>) {
        let _gone_already = SESSIONS.remove(self.room.key(key));
    }
}

impl Interfaces for Maps {
    #[inline(always)]
    fn interface(&self, index: u32) -> Option<&Interface> {
        // SAFETY: entries are written by the daemon alone, whole.
        unsafe { INTERFACES.get(index) }
    }

    #[inline(always)]
    fn cached_interface(&self, index: u32) -> Option<Interface> {
        if let Some(cached) = INTERFACE_CACHE.get(index % CACHED_INTERFACES)
            && cached.index == index
        {
            return Some(cached.interface);
        }
        self.interface(index).copied()
    }
}

impl Mappings<Addr> for Maps {
    #[inline(always)]
    fn mapping(&self, key: &MappingKey<Addr>) -> Option<&MappingRecord<Addr>> {
        // SAFETY: entries never change after they were added.
        unsafe { MAPPINGS.get(self.room.key(key)) }
    }

    #[inline(always)]
    fn add_mapping(
        &self,
        key: &MappingKey<Addr>,
        record: &MappingRecord<Addr>,
    ) -> Result<(), InsertError> {
        MAPPINGS
            .insert(
                self.room.key(key),
                self.room.value(record),
                u64::from(BPF_NOEXIST),
            )
            .map_err(insert_error)
    }

    #[inline(always)]
    fn remove_mapping(&self, key: &MappingKey<Addr>) {
        let _gone_already = MAPPINGS.remove(self.room.key(key));
    }
}

impl Ports<Addr> for Maps {
    #[inline(always)]
    fn port(&self, key: &PortKey<Addr>) -> Option<&PortOwner<Addr>> {
        // SAFETY: `PortOwner` is `PortRecord` with an atomic.
        unsafe { shared(PORTS.get_ptr_mut(self.room.key(key))) }
    }

    #[inline(always)]
    fn add_port(&self, key: &PortKey<Addr>, record: &PortRecord<Addr>) -> Result<(), InsertError> {
        PORTS
            .insert(self.room.key(key), record, u64::from(BPF_NOEXIST))
            .map_err(insert_error)
    }

    #[inline(always)]
    fn remove_port(&self, key: &PortKey<Addr>) {
        let _gone_already = PORTS.remove(self.room.key(key));
    }
}

impl Permits<Addr> for Maps {
    #[inline(always)]
    fn permit(&self, key: &PermitKey<Addr>) -> Option<&References> {
        // SAFETY: `References` is an atomic `u32`.
        unsafe { shared(PERMITS.get_ptr_mut(self.room.key(key))) }
    }

    #[inline(always)]
    fn add_permit(&self, key: &PermitKey<Addr>) -> Result<(), InsertError> {
        PERMITS
            .insert(self.room.key(key), 1, u64::from(BPF_NOEXIST))
            .map_err(insert_error)
    }

    #[inline(always)]
    fn remove_permit(&self, key: &PermitKey<Addr>) {
        let _gone_already = PERMITS.remove(self.room.key(key));
    }
}

impl Guests<Addr> for Maps {
    #[inline(always)]
    fn guest(&self, key: &GuestKey<Addr>) -> Option<&Guest> {
        // SAFETY: `Guest` is `GuestRecord` with atomics.
        unsafe { shared(GUESTS.get_ptr_mut(self.room.key(key))) }
    }

    #[inline(always)]
    fn port_of(&self, address: Addr, network: u16) -> u32 {
        family::port_of(self, address, network)
    }

    #[inline(always)]
    fn add_guest(&self, key: &GuestKey<Addr>, port: u32) -> Result<(), InsertError> {
        let nothing = GuestRecord {
            references: 0,
            sessions: 0,
            ports: 0,
            port,
        };
        GUESTS
            .insert(
                self.room.key(key),
                self.room.value(&nothing),
                u64::from(BPF_NOEXIST),
            )
            .map_err(insert_error)
    }

    #[inline(always)]
    fn remove_guest(&self, key: &GuestKey<Addr>) {
        let _gone_already = GUESTS.remove(self.room.key(key));
    }
}

impl Forwards<Addr> for Maps {
    #[inline(always)]
    fn forward(&self, generation: u16, protocol: u8, to: Endpoint<Addr>) -> Option<&Forward<Addr>> {
        let (protocol, port) = match protocol {
            TCP | UDP => (protocol, to.port),
            icmp if icmp == Addr::ICMP => (protocol, Port::ZERO),
            _ => (OTHER_PROTOCOLS, Port::ZERO),
        };
        let key = ForwardKey {
            generation,
            protocol,
            reserved: 0,
            address: to.address,
            port,
            padding: [0; 2],
        };
        FORWARDS.get(self.room.prefix(bits_to_port::<ForwardKey<Addr>>(), &key))
    }
}

impl ForwardSources<Addr> for Maps {
    #[inline(always)]
    fn forward_source(
        &self,
        origin: &Origin,
        protocol: u8,
        internal: Endpoint<Addr>,
    ) -> Option<&ForwardSource<Addr>> {
        let key = ForwardSourceKey {
            generation: origin.generation,
            uplink: origin.uplink,
            network: origin.network,
            protocol,
            reserved: 0,
            address: internal.address,
            port: internal.port,
            padding: [0; 2],
        };
        FORWARD_SOURCES.get(
            self.room
                .prefix(bits_to_port::<ForwardSourceKey<Addr>>(), &key),
        )
    }
}

impl Snats<Addr> for Maps {
    #[inline(always)]
    fn snat(
        &self,
        generation: u16,
        uplink: u16,
        network: u16,
        source: Addr,
    ) -> Option<&Snat<Addr>> {
        let key = SnatKey {
            generation,
            uplink,
            network,
            reserved: [0; 2],
            source,
        };
        SNATS.get(self.room.prefix(bits::<SnatKey<Addr>>(), &key))
    }
}

impl Excludes<Addr> for Maps {
    #[inline(always)]
    fn is_excluded(&self, generation: u16, rule: u32, destination: Addr) -> bool {
        let key = ExcludeKey {
            rule,
            generation,
            reserved: [0; 2],
            destination,
        };
        EXCLUDES
            .get(self.room.prefix(bits::<ExcludeKey<Addr>>(), &key))
            .is_some()
    }
}

impl ExternalAddresses<Addr> for Maps {
    #[inline(always)]
    fn external_address(&self, generation: u16, address: Addr) -> Option<&ExternalAddress> {
        let key = AddressKey {
            address,
            generation,
            reserved: [0; 2],
        };
        // SAFETY: entries are written by the daemon alone, whole.
        unsafe { ADDRESSES.get(self.room.key(&key)) }
    }
}

impl InsideAddresses<Addr> for Maps {
    #[inline(always)]
    fn inside(&self, generation: u16, address: Addr) -> Option<&Inside<Addr>> {
        let key = InsideKey {
            generation,
            reserved: [0; 2],
            address,
        };
        INSIDE.get(self.room.prefix(bits::<InsideKey<Addr>>(), &key))
    }
}

impl Policies<Addr> for Maps {
    #[inline(always)]
    fn chain(&self, key: &ChainKey) -> Option<&Chain> {
        // SAFETY: entries are written by the daemon alone, whole.
        unsafe { CHAINS.get(key) }
    }

    #[inline(always)]
    fn policy(&self, generation: u32, index: u32) -> Option<&Policy<Addr>> {
        let half = if generation & 1 == 1 { 0 } else { MAX_POLICIES };
        POLICIES.get(half + index)
    }
}

impl Routes<Addr> for Maps {
    #[inline(always)]
    fn route_lookup(&self, interface: u32, source: Addr, destination: Addr) -> u32 {
        route::route_lookup(self.ctx, interface, source, destination)
    }

    #[inline(always)]
    fn is_there(&self, interface: u32) -> bool {
        route::is_there(self.ctx, interface)
    }
}

impl Uplinks for Maps {
    #[inline(always)]
    fn uplink(&self, place: u32) -> Option<&Uplink> {
        WAYS_OUT.get(place)
    }

    #[inline(always)]
    fn is_exit(&self, interface: u32) -> bool {
        KNOWN_EXITS.get_ptr(interface).is_some()
    }
}

impl Fragments<Addr> for Maps {
    #[inline(always)]
    fn fragment(&self, key: &FragmentKey<Addr>) -> Option<&FragmentPorts> {
        // SAFETY: an entry that is recycled during the read yields ports without a session.
        unsafe { FRAGMENTS.get(self.room.key(key)) }
    }

    #[inline(always)]
    fn put_fragment(&self, key: &FragmentKey<Addr>, ports: &FragmentPorts) {
        let _full_of_newer = FRAGMENTS.insert(self.room.key(key), self.room.value(ports), 0);
    }

    #[inline(always)]
    fn add_fragment(
        &self,
        key: &FragmentKey<Addr>,
        ports: &FragmentPorts,
    ) -> Result<(), InsertError> {
        FRAGMENTS
            .insert(
                self.room.key(key),
                self.room.value(ports),
                u64::from(BPF_NOEXIST),
            )
            .map_err(insert_error)
    }
}

impl Datagrams<Addr> for Maps {
    #[inline(always)]
    fn datagram(&self, key: &FragmentKey<Addr>) -> Option<&Datagram> {
        // SAFETY: changing fields of the value are atomic.
        unsafe { shared(DATAGRAMS.get_ptr_mut(self.room.key(key))) }
    }

    #[inline(always)]
    fn add_datagram(&self, key: &FragmentKey<Addr>) -> Result<(), InsertError> {
        let empty = NO_DATAGRAM.get(0).ok_or(InsertError::Full)?;
        DATAGRAMS
            .insert(self.room.key(key), empty, u64::from(BPF_NOEXIST))
            .map_err(insert_error)
    }

    #[inline(always)]
    fn remove_datagram(&self, key: &FragmentKey<Addr>) {
        let _gone_already = DATAGRAMS.remove(self.room.key(key));
    }
}

impl QueuedFragments<Addr> for Maps {
    #[inline(always)]
    fn queued(&self, slot: u32) -> Option<&Queued<Addr>> {
        // SAFETY: changing fields of the value are atomic, or guarded by atomic ones.
        unsafe { shared(QUEUED.get_ptr_mut(slot)) }
    }
}

impl RateLimiters for Maps {
    #[inline(always)]
    fn rate_limiter(&self, number: u32) -> Option<&Shared> {
        // SAFETY: `Shared` is an atomic `u32`.
        unsafe { shared(REFUSALS.get_ptr_mut(number)) }
    }
}

impl NextHops for Maps {
    #[inline(always)]
    fn next_hop(&self, tag: Tag) -> Option<&NextHop> {
        if tag == next_hops::NONE {
            return None;
        }
        // SAFETY: `NextHop` is `NextHopRecord` with atomics.
        let hop: &NextHop = unsafe { shared(NEXT_HOPS.get_ptr_mut(next_hops::slot(tag)))? };
        (hop.tag.load() == tag).then_some(hop)
    }

    #[inline(always)]
    fn next_hop_tag(&self, key: &NextHopKey) -> Tag {
        // SAFETY: a word is read whole.
        unsafe { NEXT_HOP_TAGS.get(key) }.map_or(next_hops::NONE, |tag| *tag)
    }

    #[inline(always)]
    fn is_fast_path_on(&self, now_s: u32) -> bool {
        FAST_UNTIL.get(0).is_some_and(|until_s| *until_s > now_s)
    }
}

impl Rules for Maps {
    #[inline(always)]
    fn is_rule_fast(&self, rule: u32) -> bool {
        RULES
            .get(rule)
            .is_some_and(|flags| !flags.contains(RuleFlags::KERNEL))
    }
}

impl HostSockets<Addr> for Maps {
    #[inline(always)]
    fn host_socket(
        &self,
        protocol: u8,
        remote: Endpoint<Addr>,
        local: Endpoint<Addr>,
    ) -> HostSocket {
        socket::find(self.ctx, protocol, remote, local)
    }
}

impl Counters for Maps {
    #[inline(always)]
    fn count(&self, rule: u32, traffic: Traffic) {
        let Some(counters) = COUNTERS.get_ptr_mut(rule) else {
            return;
        };
        // SAFETY: the slot is this CPU's own, and the kernel runs one program at a time on it.
        let counters = unsafe { &mut *counters };
        if traffic.is_in {
            counters.packets_in += traffic.packets;
            counters.bytes_in += traffic.bytes;
        } else {
            counters.packets_out += traffic.packets;
            counters.bytes_out += traffic.bytes;
        }
    }

    #[inline(always)]
    fn count_drop(&self, reason: DropReason) {
        count_drop(reason);
    }

    #[inline(always)]
    fn count_opened(&self, rule: u32) {
        if let Some(counters) = COUNTERS.get_ptr_mut(rule) {
            // SAFETY: as above.
            unsafe { add_at_once(&raw mut (*counters).opened, 1) };
        }
    }

    #[inline(always)]
    fn count_closed(&self, rule: u32) {
        if let Some(counters) = COUNTERS.get_ptr_mut(rule) {
            // SAFETY: as above.
            unsafe { add_at_once(&raw mut (*counters).closed, 1) };
        }
    }
}

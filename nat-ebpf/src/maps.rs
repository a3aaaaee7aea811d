//! The maps, and the tables that the pipeline sees in them.
//!
//! All maps are pinned by their names. Sizes written here are replaced by the loader.

use core::{
    ffi::c_void,
    ptr::{self, NonNull},
};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{
        bpf_get_prandom_u32,
        generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_loop},
    },
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key},
};
use nat_common::{
    atomics::Shared,
    drop_reason::{DROP_REASONS, DropReason},
    session::adoption::{Adopted4, Counted, counted},
    tables::{
        addresses::{AddressKey4, ExternalAddress, ExternalAddresses},
        bindings::{Binding, BindingRecord, Bindings, Name},
        counters::{Counters, RuleCounters, Traffic},
        datagrams::{Datagram, Datagrams},
        destinations::{OriginalDestination4, OriginalDestinationKey4, OwnAddresses4},
        environment::Environment,
        excludes::{ExcludeKey4, Excludes},
        forward_sources::{
            FORWARD_SOURCE_FIXED_BITS, ForwardSource4, ForwardSourceKey4, ForwardSources,
        },
        forwards::{FORWARD_FIXED_BITS, Forward4, ForwardKey4, Forwards, OTHER_PROTOCOLS},
        fragments::{FragmentKey4, FragmentPorts, Fragments},
        guests::{Guest, GuestKey4, GuestRecord, Guests},
        host::{HostSocket, HostSockets},
        insert::InsertError,
        inside::{INSIDE_FIXED_BITS, Inside4, InsideAddresses, InsideKey4},
        interfaces::{CACHED_INTERFACES, CachedInterface, Interface, Interfaces},
        mappings::{MappingKey4, MappingRecord4, Mappings},
        next_hops::{self, NextHop, NextHopKey, NextHopRecord, NextHops, Tag},
        origin::Origin,
        permits::{PermitKey4, Permits},
        policies::{Chain, ChainKey, MAX_POLICIES, Policies, Policy4},
        ports::{PortKey4, PortOwner, PortRecord4, Ports},
        queued::{QUEUE_SETS, QUEUE_WAYS, Queued, QueuedFragments},
        references::References,
        refusals::{RATE_LIMITERS, RateLimiters},
        routes::Routes,
        rules::{RuleFlags, Rules},
        sessions::{PASSED_NS, Session, SessionKey4, SessionRecord4, Sessions},
        settings::{CurrentSettings, Settings},
        snats::{SNAT_FIXED_BITS, Snat4, SnatKey4, Snats},
        uplinks::{EXITS, UPLINKS, Uplink, Uplinks},
    },
    verifier::verifier_barrier,
    wire::{
        address::{Addr4, Endpoint, Port},
        protocol::{ICMP, TCP, UDP},
    },
    work::Work,
};

use crate::{route, skb::Saved, socket};

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

#[map]
static SESSIONS: HashMap<SessionKey4, SessionRecord4> = HashMap::pinned(2 * 262_144, 0);
#[map]
static MAPPINGS: HashMap<MappingKey4, MappingRecord4> = HashMap::pinned(262_144, 0);
#[map]
static PORTS: HashMap<PortKey4, PortRecord4> = HashMap::pinned(262_144, 0);
#[map]
static PERMITS: HashMap<PermitKey4, u32> = HashMap::pinned(262_144, 0);
#[map]
static GUESTS: HashMap<GuestKey4, GuestRecord> = HashMap::pinned(262_144, 0);
/// Which port has which name, if guests are bound to their ports.
#[map]
static BINDINGS: HashMap<Name, BindingRecord> = HashMap::pinned(65_536, 1);
/// How many names each port has.
#[map]
static NAMES: HashMap<u32, u32> = HashMap::pinned(4096, 0);
#[map]
static FORWARDS: LpmTrie<ForwardKey4, Forward4> = LpmTrie::pinned(1 << 20, 0);
/// The external port from which packets of a forwarded port leave.
#[map]
static FORWARD_SOURCES: LpmTrie<ForwardSourceKey4, ForwardSource4> = LpmTrie::pinned(1 << 20, 0);
#[map]
static SNATS: LpmTrie<SnatKey4, Snat4> = LpmTrie::pinned(1 << 16, 0);
#[map]
static EXCLUDES: LpmTrie<ExcludeKey4, u8> = LpmTrie::pinned(1 << 16, 0);
#[map]
static INSIDE: LpmTrie<InsideKey4, Inside4> = LpmTrie::pinned(1 << 16, 0);
/// Policies by the sides of a flow, as runs of [`POLICIES`].
#[map]
static CHAINS: HashMap<ChainKey, Chain> = HashMap::pinned(1 << 15, 1);
/// Odd generations are in the first half and even ones in the second, so a new rule set is written
/// beside the one in use.
#[map]
static POLICIES: Array<Policy4> = Array::pinned(2 * MAX_POLICIES, 0);
#[map]
static ADDRESSES: HashMap<AddressKey4, ExternalAddress> = HashMap::pinned(1 << 17, 1);
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
static FRAGMENTS: LruHashMap<FragmentKey4, FragmentPorts> = LruHashMap::pinned(16_384, 0);
#[map]
static DATAGRAMS: LruHashMap<FragmentKey4, Datagram> = LruHashMap::pinned(4096, 0);
#[map]
static QUEUED: Array<Queued<Addr4>> = Array::pinned(QUEUE_SETS * QUEUE_WAYS, 0);
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
static COUNTERS: PerCpuArray<RuleCounters> = PerCpuArray::pinned(1024, 0);
#[map]
static DROPS: PerCpuArray<u64> = PerCpuArray::pinned(DROP_REASONS, 0);

/// When guests last received errors about refused packets.
#[map]
static REFUSALS: Array<u32> = Array::with_max_entries(RATE_LIMITERS, 0);

/// The work area: a packet's headers and state during its processing.
#[map]
static WORK: PerCpuArray<Work<Addr4>> = PerCpuArray::with_max_entries(1, 0);

/// The session that is being adopted.
#[map]
static ADOPTING: PerCpuArray<Adopting> = PerCpuArray::with_max_entries(1, 0);

/// A fragmented packet without any part: too large for the stack.
#[map]
static NO_DATAGRAM: Array<Datagram> = Array::with_max_entries(1, 0);

/// The packet that is set aside while queued fragments are sent.
#[map]
static SAVED: PerCpuArray<Saved> = PerCpuArray::with_max_entries(1, 0);

/// What the loopback address stands for.
#[map]
static OWN_ADDRESSES: Array<OwnAddresses4> = Array::with_max_entries(1, 0);

/// The destinations that sockets with guests as peers have named. The least recently used are
/// evicted.
#[map]
static DESTINATIONS: LruHashMap<OriginalDestinationKey4, OriginalDestination4> =
    LruHashMap::pinned(16_384, 0);

/// What the loopback address stands for.
#[inline(always)]
pub(crate) fn own_addresses<'a>() -> Option<&'a OwnAddresses4> {
    OWN_ADDRESSES.get(0)
}

/// The destination that a socket with a guest as its peer has named.
#[inline(always)]
pub(crate) fn destination(key: &OriginalDestinationKey4) -> Option<OriginalDestination4> {
    // SAFETY: it is copied at once; an entry that is recycled meanwhile shows another socket's.
    unsafe { DESTINATIONS.get(key) }.copied()
}

/// Stores the destination that a socket has named.
#[inline(always)]
pub(crate) fn remember_destination(key: &OriginalDestinationKey4, value: &OriginalDestination4) {
    let _full_of_newer = DESTINATIONS.insert(key, value, 0);
}

/// Forgets the destination of a socket: it uses the guest's own address.
#[inline(always)]
pub(crate) fn forget_destination(key: &OriginalDestinationKey4) {
    let _gone_already = DESTINATIONS.remove(key);
}

/// Counts a connection of the host. It is no session, because its end is unknown.
#[inline(always)]
pub(crate) fn count_local(rule: u32) {
    if let Some(counters) = COUNTERS.get_ptr_mut(rule) {
        // SAFETY: the slot is a valid one. A packet may interrupt this program and count there, so
        // each count is one instruction.
        unsafe {
            add_at_once(&raw mut (*counters).opened, 1);
            add_at_once(&raw mut (*counters).closed, 1);
        }
    }
}

/// Adds to a count by one instruction.
///
/// # Safety
///
/// The pointer must be valid and aligned.
#[inline(always)]
unsafe fn add_at_once(count: *mut u64, more: u64) {
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
pub(crate) unsafe fn work_area<'a>() -> Option<&'a mut Work<Addr4>> {
    // SAFETY: the slot is this CPU's own, and there is no other borrow. Zeroes are a valid value,
    // and so is what a packet before left behind.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// What the adoption of a session needs: too large for the stack, and no packet's.
#[repr(C)]
pub(crate) struct Adopting {
    /// The session.
    pub(crate) adopted: Adopted4,
    /// Its entries.
    pub(crate) work: Work<Addr4>,
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

/// Adds to what was counted on this CPU.
#[inline(always)]
pub(crate) fn add_counted(counted: &Counted) -> bool {
    let [packets_in, bytes_in, packets_out, bytes_out, opened, closed] = counted.words;
    if counted.table == counted::DROPS {
        let Some(count) = DROPS.get_ptr_mut(counted.number) else {
            return false;
        };
        // SAFETY: the slot is a valid one of this CPU. A packet may interrupt this program and
        // count there, so each count is one instruction.
        unsafe { add_at_once(count, packets_in) };
        return true;
    }
    let Some(counters) = COUNTERS.get_ptr_mut(counted.number) else {
        return false;
    };
    // SAFETY: as above.
    unsafe {
        add_at_once(&raw mut (*counters).packets_in, packets_in);
        add_at_once(&raw mut (*counters).bytes_in, bytes_in);
        add_at_once(&raw mut (*counters).packets_out, packets_out);
        add_at_once(&raw mut (*counters).bytes_out, bytes_out);
        add_at_once(&raw mut (*counters).opened, opened);
        add_at_once(&raw mut (*counters).closed, closed);
    }
    true
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

/// A clock with a resolution below a second, in units of [`PASSED_NS`]; never 0.
#[inline(always)]
pub(crate) fn fine_clock() -> u32 {
    // SAFETY: reads a clock.
    let nanoseconds = unsafe { bpf_ktime_get_ns() };
    (nanoseconds / PASSED_NS) as u32 | 1
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
}

impl Maps {
    #[inline(always)]
    pub(crate) fn new(ctx: *mut c_void) -> Self {
        Self { ctx }
    }
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

impl Sessions<Addr4> for Maps {
    #[inline(always)]
    fn host_sessions(&self) -> u32 {
        // SAFETY: the pointer is that of a constant; volatile, since the compiler does not know
        // that the loader may have written another.
        unsafe { (&raw const HOST_SESSIONS).read_volatile() }
    }

    #[inline(always)]
    fn session(&self, key: &SessionKey4) -> Option<&Session<Addr4>> {
        // SAFETY: `Session` is `SessionRecord` with atomics.
        unsafe { shared(SESSIONS.get_ptr_mut(key)) }
    }

    #[inline(always)]
    fn add_session(&self, key: &SessionKey4, record: &SessionRecord4) -> Result<(), InsertError> {
        SESSIONS
            .insert(key, record, u64::from(BPF_NOEXIST))
            .map_err(insert_error)
    }

    #[inline(always)]
    fn remove_session(&self, key: &SessionKey4) {
        let _gone_already = SESSIONS.remove(key);
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

impl Mappings<Addr4> for Maps {
    #[inline(always)]
    fn mapping(&self, key: &MappingKey4) -> Option<&MappingRecord4> {
        // SAFETY: entries never change after they were added.
        unsafe { MAPPINGS.get(key) }
    }

    #[inline(always)]
    fn add_mapping(&self, key: &MappingKey4, record: &MappingRecord4) -> Result<(), InsertError> {
        MAPPINGS
            .insert(key, record, u64::from(BPF_NOEXIST))
            .map_err(insert_error)
    }

    #[inline(always)]
    fn remove_mapping(&self, key: &MappingKey4) {
        let _gone_already = MAPPINGS.remove(key);
    }
}

impl Ports<Addr4> for Maps {
    #[inline(always)]
    fn port(&self, key: &PortKey4) -> Option<&PortOwner<Addr4>> {
        // SAFETY: `PortOwner` is `PortRecord` with an atomic.
        unsafe { shared(PORTS.get_ptr_mut(key)) }
    }

    #[inline(always)]
    fn add_port(&self, key: &PortKey4, record: &PortRecord4) -> Result<(), InsertError> {
        PORTS
            .insert(key, record, u64::from(BPF_NOEXIST))
            .map_err(insert_error)
    }

    #[inline(always)]
    fn remove_port(&self, key: &PortKey4) {
        let _gone_already = PORTS.remove(key);
    }
}

impl Permits<Addr4> for Maps {
    #[inline(always)]
    fn permit(&self, key: &PermitKey4) -> Option<&References> {
        // SAFETY: `References` is an atomic `u32`.
        unsafe { shared(PERMITS.get_ptr_mut(key)) }
    }

    #[inline(always)]
    fn add_permit(&self, key: &PermitKey4) -> Result<(), InsertError> {
        PERMITS
            .insert(key, 1, u64::from(BPF_NOEXIST))
            .map_err(insert_error)
    }

    #[inline(always)]
    fn remove_permit(&self, key: &PermitKey4) {
        let _gone_already = PERMITS.remove(key);
    }
}

impl Guests<Addr4> for Maps {
    #[inline(always)]
    fn guest(&self, key: &GuestKey4) -> Option<&Guest> {
        // SAFETY: `Guest` is `GuestRecord` with atomics.
        unsafe { shared(GUESTS.get_ptr_mut(key)) }
    }

    #[inline(always)]
    fn port_of(&self, address: Addr4, network: u16) -> u32 {
        let name = Name::of_address(address, network);
        self.binding(&name).map_or(0, |binding| binding.port.load())
    }

    #[inline(always)]
    fn add_guest(&self, key: &GuestKey4, port: u32) -> Result<(), InsertError> {
        let nothing = GuestRecord {
            references: 0,
            sessions: 0,
            ports: 0,
            port,
        };
        GUESTS
            .insert(key, nothing, u64::from(BPF_NOEXIST))
            .map_err(insert_error)
    }

    #[inline(always)]
    fn remove_guest(&self, key: &GuestKey4) {
        let _gone_already = GUESTS.remove(key);
    }
}

impl Forwards<Addr4> for Maps {
    #[inline(always)]
    fn forward(&self, generation: u16, protocol: u8, to: Endpoint<Addr4>) -> Option<&Forward4> {
        let (protocol, port) = match protocol {
            TCP | UDP => (protocol, to.port),
            ICMP => (protocol, Port::ZERO),
            _ => (OTHER_PROTOCOLS, Port::ZERO),
        };
        let key = ForwardKey4 {
            generation,
            protocol,
            reserved: 0,
            address: to.address,
            port,
            padding: [0; 2],
        };
        FORWARDS.get(Key::new(FORWARD_FIXED_BITS + 16, key))
    }
}

impl ForwardSources<Addr4> for Maps {
    #[inline(always)]
    fn forward_source(
        &self,
        origin: &Origin,
        protocol: u8,
        internal: Endpoint<Addr4>,
    ) -> Option<&ForwardSource4> {
        let key = ForwardSourceKey4 {
            generation: origin.generation,
            uplink: origin.uplink,
            network: origin.network,
            protocol,
            reserved: 0,
            address: internal.address,
            port: internal.port,
            padding: [0; 2],
        };
        FORWARD_SOURCES.get(Key::new(FORWARD_SOURCE_FIXED_BITS + 16, key))
    }
}

impl Snats<Addr4> for Maps {
    #[inline(always)]
    fn snat(&self, generation: u16, uplink: u16, network: u16, source: Addr4) -> Option<&Snat4> {
        let key = SnatKey4 {
            generation,
            uplink,
            network,
            reserved: [0; 2],
            source,
        };
        SNATS.get(Key::new(SNAT_FIXED_BITS + 32, key))
    }
}

impl Excludes<Addr4> for Maps {
    #[inline(always)]
    fn is_excluded(&self, generation: u16, rule: u32, destination: Addr4) -> bool {
        let key = ExcludeKey4 {
            rule,
            generation,
            reserved: [0; 2],
            destination,
        };
        EXCLUDES.get(Key::new(SNAT_FIXED_BITS + 32, key)).is_some()
    }
}

impl ExternalAddresses<Addr4> for Maps {
    #[inline(always)]
    fn external_address(&self, generation: u16, address: Addr4) -> Option<&ExternalAddress> {
        let key = AddressKey4 {
            address,
            generation,
            reserved: [0; 2],
        };
        // SAFETY: entries are written by the daemon alone, whole.
        unsafe { ADDRESSES.get(key) }
    }
}

impl InsideAddresses<Addr4> for Maps {
    #[inline(always)]
    fn inside(&self, generation: u16, address: Addr4) -> Option<&Inside4> {
        let key = InsideKey4 {
            generation,
            reserved: [0; 2],
            address,
        };
        INSIDE.get(Key::new(INSIDE_FIXED_BITS + 32, key))
    }
}

impl Policies<Addr4> for Maps {
    #[inline(always)]
    fn chain(&self, key: &ChainKey) -> Option<&Chain> {
        // SAFETY: entries are written by the daemon alone, whole.
        unsafe { CHAINS.get(key) }
    }

    #[inline(always)]
    fn policy(&self, generation: u32, index: u32) -> Option<&Policy4> {
        let half = if generation & 1 == 1 { 0 } else { MAX_POLICIES };
        POLICIES.get(half + index)
    }
}

impl Routes<Addr4> for Maps {
    #[inline(always)]
    fn route_lookup(&self, interface: u32, source: Addr4, destination: Addr4) -> u32 {
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

impl Fragments<Addr4> for Maps {
    #[inline(always)]
    fn fragment(&self, key: &FragmentKey4) -> Option<&FragmentPorts> {
        // SAFETY: an entry that is recycled during the read yields ports without a session.
        unsafe { FRAGMENTS.get(key) }
    }

    #[inline(always)]
    fn put_fragment(&self, key: &FragmentKey4, ports: &FragmentPorts) {
        let _full_of_newer = FRAGMENTS.insert(key, ports, 0);
    }

    #[inline(always)]
    fn add_fragment(&self, key: &FragmentKey4, ports: &FragmentPorts) -> Result<(), InsertError> {
        FRAGMENTS
            .insert(key, ports, u64::from(BPF_NOEXIST))
            .map_err(insert_error)
    }
}

impl Datagrams<Addr4> for Maps {
    #[inline(always)]
    fn datagram(&self, key: &FragmentKey4) -> Option<&Datagram> {
        // SAFETY: changing fields of the value are atomic.
        unsafe { shared(DATAGRAMS.get_ptr_mut(key)) }
    }

    #[inline(always)]
    fn add_datagram(&self, key: &FragmentKey4) -> Result<(), InsertError> {
        let empty = NO_DATAGRAM.get(0).ok_or(InsertError::Full)?;
        DATAGRAMS
            .insert(key, empty, u64::from(BPF_NOEXIST))
            .map_err(insert_error)
    }

    #[inline(always)]
    fn remove_datagram(&self, key: &FragmentKey4) {
        let _gone_already = DATAGRAMS.remove(key);
    }
}

impl QueuedFragments<Addr4> for Maps {
    #[inline(always)]
    fn queued(&self, slot: u32) -> Option<&Queued<Addr4>> {
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

impl HostSockets<Addr4> for Maps {
    #[inline(always)]
    fn host_socket(
        &self,
        protocol: u8,
        remote: Endpoint<Addr4>,
        local: Endpoint<Addr4>,
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

//! Programs at the host's own sockets: the host reaches forwards by its own addresses and by the
//! loopback address. See [`nat_common::pipeline::local`].
//!
//! They are attached to the root of all control groups, so they run for every socket of the
//! machine: they ignore those of other network namespaces. The system call always continues.

use core::{marker::PhantomData, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    macros::map,
    maps::Array,
    programs::SockAddrContext,
};
use nat_common::{
    pipeline::local::{Caller, redirect},
    tables::destinations::{OriginalDestination, OriginalDestinationKey, OwnAddresses},
    wire::address::{Endpoint, Port},
};

use crate::{
    family::{Addr, DESTINATIONS, Room},
    maps::{COUNTERS, Maps, add_at_once},
};

/// The kernel's number of the daemon's network namespace, which the loader writes. 0 is the number
/// of no namespace.
#[unsafe(no_mangle)]
static NETNS_COOKIE: u64 = 0;

/// What the loopback address stands for.
#[map]
static OWN_ADDRESSES: Array<OwnAddresses<Addr>> = Array::with_max_entries(1, 0);

/// What the loopback address stands for.
#[inline(always)]
fn own_addresses<'a>() -> Option<&'a OwnAddresses<Addr>> {
    OWN_ADDRESSES.get(0)
}

/// The destination that a socket with a guest as its peer has named.
#[inline(always)]
fn destination(
    room: &Room,
    key: &OriginalDestinationKey<Addr>,
) -> Option<OriginalDestination<Addr>> {
    // SAFETY: it is copied at once; an entry that is recycled meanwhile shows another socket's.
    unsafe { DESTINATIONS.get(room.key(key)) }.copied()
}

/// Stores the destination that a socket has named.
#[inline(always)]
fn remember_destination(
    room: &Room,
    key: &OriginalDestinationKey<Addr>,
    value: &OriginalDestination<Addr>,
) {
    let _full_of_newer = DESTINATIONS.insert(room.key(key), room.value(value), 0);
}

/// Forgets the destination of a socket: it uses the guest's own address.
#[inline(always)]
fn forget_destination(room: &Room, key: &OriginalDestinationKey<Addr>) {
    let _gone_already = DESTINATIONS.remove(room.key(key));
}

/// Counts a connection of the host. It is no session, because its end is unknown.
#[inline(always)]
fn count_local(rule: u32) {
    if let Some(counters) = COUNTERS.get_ptr_mut(rule) {
        // SAFETY: the slot is a valid one. A packet may interrupt this program and count there, so
        // each count is one instruction.
        unsafe {
            add_at_once(&raw mut (*counters).opened, 1);
            add_at_once(&raw mut (*counters).closed, 1);
        }
    }
}

/// The code for the kernel: the system call continues. (The hooks that show a source allow nothing
/// else.)
pub(crate) const GO_ON: i32 = 1;

/// When a connection is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// At each call.
    EachTime,
    /// At the first call.
    Once,
}

/// Replaces the named destination by the guest, if there is one.
#[inline(always)]
pub(crate) fn ask<F: Form>(call: &Call<F>, count: Count) {
    if !call.is_here() {
        return;
    }
    let (Some(wanted), Some(own)) = (call.address(), own_addresses()) else {
        return;
    };
    let mut bytes = MaybeUninit::uninit();
    let maps = Maps::new(call.context.as_ptr(), Room::within(&mut bytes));
    let found = redirect(&maps, own, &call.caller(), call.protocol(), wanted);
    let room = &maps.room;
    let Some(found) = found else {
        // It may have named the same guest before, by another address.
        let key = OriginalDestinationKey::new(call.socket(), wanted);
        if destination(room, &key).is_some() {
            forget_destination(room, &key);
        }
        return;
    };
    let key = OriginalDestinationKey::new(call.socket(), found.guest);
    let value = OriginalDestination::new(wanted);
    let before = destination(room, &key);
    if before != Some(value) {
        remember_destination(room, &key, &value);
    }
    if count == Count::EachTime || before.is_none() {
        count_local(found.rule);
    }
    call.set_address(found.guest);
}

/// Replaces the guest by the destination that the program has named.
#[inline(always)]
pub(crate) fn show<F: Form>(call: &Call<F>) {
    if !call.is_here() {
        return;
    }
    let Some(guest) = call.address() else { return };
    let mut bytes = MaybeUninit::uninit();
    let key = OriginalDestinationKey::new(call.socket(), guest);
    if let Some(named) = destination(&Room::within(&mut bytes), &key) {
        call.set_address(named.endpoint());
    }
}

/// The form in which the kernel shows an address to a program.
pub(crate) trait Form {
    /// The address of a call, if it has one in this form.
    ///
    /// # Safety
    ///
    /// The call must be the program's. (This reads and writes words: the kernel allows only those.)
    unsafe fn address(call: *const bpf_sock_addr) -> Option<Addr>;

    /// Changes the address of a call that has one.
    ///
    /// # Safety
    ///
    /// As above.
    unsafe fn set_address(call: *mut bpf_sock_addr, to: Addr);

    /// The address to which a socket is bound.
    ///
    /// # Safety
    ///
    /// The socket must be that of the program's call.
    unsafe fn bound(socket: *const bpf_sock) -> Addr;
}

/// A system call that names an address.
pub(crate) struct Call<F> {
    context: SockAddrContext,
    form: PhantomData<F>,
}

impl<F: Form> Call<F> {
    #[inline(always)]
    pub(crate) fn new(context: SockAddrContext) -> Self {
        Self {
            context,
            form: PhantomData,
        }
    }

    /// Whether the socket is in the daemon's network namespace.
    #[inline(always)]
    fn is_here(&self) -> bool {
        // SAFETY: the pointer is that of a constant; volatile, since the compiler does not know
        // that the loader has written another.
        let here = unsafe { (&raw const NETNS_COOKIE).read_volatile() };
        // SAFETY: the context is the program's.
        unsafe { bpf_get_netns_cookie(self.context.as_ptr()) == here }
    }

    /// The kernel's number of the socket.
    #[inline(always)]
    fn socket(&self) -> u64 {
        // SAFETY: the context is the program's.
        unsafe { bpf_get_socket_cookie(self.context.as_ptr()) }
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        // SAFETY: the context is the program's; volatile, since the kernel allows whole fields
        // only.
        let protocol = unsafe { (&raw const (*self.context.sock_addr).protocol).read_volatile() };
        // (That of multipath TCP is larger than a byte; its subflows are TCP.)
        if protocol > 0xff { 0 } else { protocol as u8 }
    }

    /// The address of the call, if it is one in this form.
    #[inline(always)]
    fn address(&self) -> Option<Endpoint<Addr>> {
        let call = self.context.sock_addr;
        // SAFETY: as above.
        let (address, port) = unsafe {
            (
                F::address(call)?,
                (&raw const (*call).user_port).read_volatile(),
            )
        };
        let [first, second, ..] = port.to_ne_bytes();
        Some(Endpoint::new(address, Port([first, second])))
    }

    #[inline(always)]
    fn set_address(&self, to: Endpoint<Addr>) {
        let call = self.context.sock_addr;
        let [first, second] = to.port.0;
        // SAFETY: as above.
        unsafe {
            F::set_address(call, to.address);
            let port = u32::from_ne_bytes([first, second, 0, 0]);
            (&raw mut (*call).user_port).write_volatile(port);
        }
    }

    /// The socket that asks.
    #[inline(always)]
    fn caller(&self) -> Caller<Addr> {
        let call = self.context.sock_addr;
        // SAFETY: as above; every such call has a socket.
        let (interface, address, port) = unsafe {
            let socket = (&raw const (*call).__bindgen_anon_1.sk).read_volatile();
            (
                (&raw const (*socket).bound_dev_if).read_volatile(),
                F::bound(socket),
                (&raw const (*socket).src_port).read_volatile(),
            )
        };
        Caller {
            bound: Endpoint::new(address, Port::new(port as u16)),
            interface,
        }
    }
}

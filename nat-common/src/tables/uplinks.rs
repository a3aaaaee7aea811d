//! `UPLINKS` and `EXITS`: interfaces by which packets of guests leave.

/// Value of `UPLINKS`: an uplink by which guests' packets leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Uplink {
    /// Index of the interface that has the programs, 0 if there is none.
    pub index: u32,
    /// Its number, 0 after the last one.
    pub number: u16,
    /// Zero.
    pub reserved: [u8; 2],
}

/// How many uplinks have a place in `UPLINKS`. If there are more, the last place is an uplink that
/// never exists.
pub const UPLINKS: u32 = 16;

/// How many interfaces `EXITS` holds.
pub const EXITS: u32 = 4096;

/// The tables of uplinks and of the other interfaces by which packets may leave.
pub trait Uplinks {
    /// The uplink at a place from 0 to [`crate::tables::uplinks::UPLINKS`].
    fn uplink(&self, place: u32) -> Option<&Uplink>;
    /// Whether the daemon has checked this interface and, if its packets need translation, attached
    /// the programs to it.
    fn is_exit(&self, interface: u32) -> bool;
}

crate::map_layout!(Uplink, 8);

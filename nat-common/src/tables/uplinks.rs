//! `UPLINKS` and `EXITS`: interfaces by which packets of guests leave.

/// Value of `UPLINKS`: an uplink by which guests' packets leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Uplink {
    /// Index of the interface that has the programs, 0 if there is none.
    pub index: u32,
    /// Its number, 0 behind the last one.
    pub number: u16,
    /// Zero.
    pub reserved: [u8; 2],
}

/// How many uplinks have a place in `UPLINKS`. Where there are more, the last place stands for one
/// that is never there.
pub const UPLINKS: u32 = 16;

/// How many interfaces `EXITS` holds.
pub const EXITS: u32 = 4096;

/// The tables of uplinks and of the other interfaces by which packets may leave.
pub trait Uplinks {
    /// The uplink at a place from 0 to [`crate::tables::uplinks::UPLINKS`].
    fn uplink(&self, place: u32) -> Option<&Uplink>;
    /// Whether the daemon knows by this interface whether what leaves there is to be translated,
    /// and, if so, has attached the programs to it.
    fn is_exit(&self, interface: u32) -> bool;
}

crate::map_layout!(Uplink, 8);

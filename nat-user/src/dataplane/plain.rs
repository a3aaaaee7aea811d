//! Plain bytes for maps.

/// A value that a map holds as plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Plain<T>(pub T);

// SAFETY: `Plain` has the layout of `T`, and `bytemuck::Pod` promises for `T` everything that aya
// requires: no padding, no invalid bit pattern, no reference.
unsafe impl<T: bytemuck::Pod> aya::Pod for Plain<T> {}

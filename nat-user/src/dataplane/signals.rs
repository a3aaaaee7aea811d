//! Requests to the kernel that a signal must not interrupt.

use nix::sys::signal::{SigSet, SigmaskHow};

/// Runs `work` while signals are blocked for this thread. They are delivered afterwards.
///
/// While a signal is pending, the kernel's verifier gives up with EAGAIN (`do_check` in
/// `kernel/bpf/verifier.c`), and a probe for a feature of the kernel reports that it is missing.
pub(super) fn with_signals_blocked<T>(work: impl FnOnce() -> T) -> T {
    let _mask = Mask(SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok());
    work()
}

/// Restores a thread's signal mask, also when the work panics.
struct Mask(Option<SigSet>);

impl Drop for Mask {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            // It was the thread's own mask, so the kernel accepts it.
            let _ = before.thread_set_mask();
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;

    use super::*;

    #[test]
    fn signals_wait_meanwhile_and_not_afterwards() {
        let is_blocked = || SigSet::thread_get_mask().unwrap().contains(Signal::SIGHUP);
        assert!(!is_blocked());
        assert!(with_signals_blocked(is_blocked));
        assert!(!is_blocked());
        assert!(std::panic::catch_unwind(|| with_signals_blocked(|| panic!("at work"))).is_err());
        assert!(!is_blocked());
    }
}

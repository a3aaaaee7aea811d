//! Ctrl-C and SIGTERM take every living lab down before the process ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, Once, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::Place;

static LIVING: Mutex<Vec<Place>> = Mutex::new(Vec::new());
/// Set by [`wait_for_interrupt`]: the next signal is its caller's, who ends in good order.
static AWAITED: AtomicBool = AtomicBool::new(false);
static ARRIVED: Mutex<bool> = Mutex::new(false);
static ARRIVAL: Condvar = Condvar::new();
/// Set when the labs are being taken down under the threads that use them.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Installs the handlers, once in a process.
pub(crate) fn clean_up_on_signals() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| match Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        Ok(mut signals) => {
            thread::spawn(move || {
                for signal in signals.forever() {
                    on_signal(signal);
                }
            });
        }
        Err(error) => eprintln!("Ctrl-C would leave the lab standing: {error}"),
    });
}

fn on_signal(signal: i32) {
    if AWAITED.swap(false, Ordering::SeqCst) {
        *ARRIVED.lock().unwrap_or_else(PoisonError::into_inner) = true;
        ARRIVAL.notify_all();
        return;
    }
    ENDING.store(true, Ordering::SeqCst);
    // The lock stays taken, so that no other lab is created.
    let living = LIVING.lock().unwrap_or_else(PoisonError::into_inner);
    for place in living.iter() {
        if let Err(error) = place.remove() {
            eprintln!("{error:#}");
        }
    }
    std::process::exit(128 + signal);
}

/// Holds a thread whose lab is being taken down by a signal: what it would report from now on is
/// no failure of what it does.
pub(crate) fn hold_if_ending() {
    while ENDING.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// Returns at the next SIGINT, SIGTERM or SIGHUP, which then ends neither lab nor process; or
/// when `ended` says so, which is asked a few times a second.
pub fn wait_for_interrupt(mut ended: impl FnMut() -> bool) {
    clean_up_on_signals();
    let mut arrived = ARRIVED.lock().unwrap_or_else(PoisonError::into_inner);
    *arrived = false;
    AWAITED.store(true, Ordering::SeqCst);
    while !*arrived && !ended() {
        let pause = std::time::Duration::from_millis(200);
        arrived = ARRIVAL
            .wait_timeout(arrived, pause)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
    AWAITED.store(false, Ordering::SeqCst);
}

pub(crate) fn register(place: &Place) {
    LIVING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(place.clone());
}

pub(crate) fn forget(place: &Place) {
    LIVING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|other| other != place);
}

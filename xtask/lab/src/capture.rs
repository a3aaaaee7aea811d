//! Recording what passes an interface.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::frame::Frame;
use crate::packet::Packet;
use crate::packet6::Packet6;
use crate::patience::{PATIENCE, patience};
use crate::socket::RawSocket;

/// How soon the recording thread sees that it shall stop.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// A running recording of an interface; ends when dropped.
#[derive(Debug)]
pub struct Capture {
    what: String,
    stop: Arc<AtomicBool>,
    recording: Arc<Recording>,
    thread: Option<JoinHandle<()>>,
}

/// What the recording thread shares with its owner.
#[derive(Debug)]
struct Recording {
    socket: RawSocket,
    frames: Mutex<Vec<Frame>>,
}

impl Capture {
    /// Records what the socket of an interface receives; `what` names both in messages.
    pub(crate) fn start(socket: RawSocket, what: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let recording = Arc::new(Recording {
            socket,
            frames: Mutex::default(),
        });
        let thread = thread::spawn({
            let (stop, recording) = (stop.clone(), recording.clone());
            move || recording.record(&stop)
        });
        Self {
            what,
            stop,
            recording,
            thread: Some(thread),
        }
    }

    /// Everything that was on the interface until now.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        self.recording.read().clone()
    }

    /// The IPv4 packets recorded so far, each with its frame.
    #[must_use]
    pub fn packets(&self) -> Vec<(Frame, Packet)> {
        self.each(Frame::packet)
    }

    /// The IPv6 packets recorded so far, each with its frame.
    #[must_use]
    pub fn packets6(&self) -> Vec<(Frame, Packet6)> {
        self.each(Frame::packet6)
    }

    fn each<P>(&self, parse: impl Fn(&Frame) -> Option<P>) -> Vec<(Frame, P)> {
        let frames = self.frames().into_iter();
        frames
            .filter_map(|frame| parse(&frame).map(|packet| (frame, packet)))
            .collect()
    }

    /// The first IPv4 packet that fits, recorded already or within 3 s.
    ///
    /// # Errors
    /// When there is none; the message lists what was seen instead.
    pub fn wait_for(&self, fits: impl Fn(&Frame, &Packet) -> bool) -> Result<(Frame, Packet)> {
        self.wait_among(Self::packets, fits)
    }

    /// The first IPv6 packet that fits, recorded already or within 3 s.
    ///
    /// # Errors
    /// When there is none; the message lists what was seen instead.
    pub fn wait_for6(&self, fits: impl Fn(&Frame, &Packet6) -> bool) -> Result<(Frame, Packet6)> {
        self.wait_among(Self::packets6, fits)
    }

    fn wait_among<P: Display>(
        &self,
        packets: impl Fn(&Self) -> Vec<(Frame, P)>,
        fits: impl Fn(&Frame, &P) -> bool,
    ) -> Result<(Frame, P)> {
        let deadline = Instant::now() + patience(PATIENCE);
        loop {
            let packets = packets(self);
            let seen: Vec<String> = packets.iter().map(|(_, p)| p.to_string()).collect();
            let found = packets
                .into_iter()
                .find(|(frame, packet)| fits(frame, packet));
            if let Some(found) = found {
                return Ok(found);
            }
            if Instant::now() > deadline {
                bail!("not seen on {}; seen was:\n{}", self.what, seen.join("\n"));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the recording and returns everything that was on the interface until now.
    #[must_use]
    pub fn stop(mut self) -> Vec<Frame> {
        self.end();
        std::mem::take(&mut *self.recording.read())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

impl Recording {
    fn record(&self, stop: &AtomicBool) {
        loop {
            // Queried before the last read, so that nothing that arrived earlier is lost.
            let last = stop.load(Ordering::Relaxed);
            self.socket
                .wait(if last { Duration::ZERO } else { STOP_CHECK });
            drop(self.read());
            if last {
                return;
            }
        }
    }

    /// All frames, with those that still wait in the socket. The lock keeps them in order, and
    /// none is in the hands of another thread meanwhile.
    fn read(&self) -> MutexGuard<'_, Vec<Frame>> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        // An error (the interface went away) ends one reading, not the recording.
        while let Ok(Some(frame)) = self.socket.receive() {
            frames.push(frame);
        }
        frames
    }
}

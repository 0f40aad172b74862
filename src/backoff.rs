//! Pauses between attempts: longer each time, and by chance, so that those who wait don't come again together.
//!
//! It must not decide how often something is tried: whoever tries has a deadline or a count.

use std::time::{Duration, SystemTime};

/// The pauses of one who waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pause: Duration,
    longest: Duration,
}

impl Backoff {
    /// Begins with pauses of about `first`; none is over twice `longest`.
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { pause: first, longest }
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // The clock's last digits, with what is different in every process.
        let chance = (now.subsec_nanos() ^ std::process::id().wrapping_mul(2_654_435_761)) % 1_009;
        let pause = self.pause + self.pause.mul_f64(f64::from(chance) / 1_009.0);
        self.pause = (self.pause * 2).min(self.longest);
        pause
    }

    /// Sleeps for the next pause.
    pub(crate) fn sleep(&mut self) {
        std::thread::sleep(self.next());
    }
}

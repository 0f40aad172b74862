//! Pauses between retries: exponential backoff with jitter, so that waiting processes do not retry all at once.
//!
//! Does not limit the number of retries; callers have a deadline or a count.

use std::time::{Duration, SystemTime};

/// The pauses of one retry loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pause: Duration,
    longest: Duration,
}

impl Backoff {
    /// The first pause is between `first` and twice `first`. No pause is longer than twice `longest`.
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { pause: first, longest }
    }

    /// Returns the next pause and doubles the one after it.
    pub(crate) fn next(&mut self) -> Duration {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // The clock's nanoseconds mixed with the process id differ between processes.
        let jitter = (now.subsec_nanos() ^ std::process::id().wrapping_mul(2_654_435_761)) % 1_009;
        let pause = self.pause + self.pause.mul_f64(f64::from(jitter) / 1_009.0);
        self.pause = (self.pause * 2).min(self.longest);
        pause
    }

    /// Sleeps for the next pause.
    pub(crate) fn sleep(&mut self) {
        std::thread::sleep(self.next());
    }
}

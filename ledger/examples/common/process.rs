//! What the kernel says of a process: memory and processor time.

use std::{fs, io, time::Duration};

/// The kernel counts processor time in ticks of this many a second, on every Linux machine.
const TICKS: u64 = 100;

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// Of that, its own: heap and stacks.
    pub anonymous: u64,
    /// Of that, mapped files, such as the program and its libraries.
    pub files: u64,
    /// Resident at most, ever.
    pub peak: u64,
}

/// Memory of the process `pid`.
pub fn memory(pid: u32) -> io::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().find_map(|word| word.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
    };
    Ok(Memory {
        resident: bytes("VmRSS:"),
        anonymous: bytes("RssAnon:"),
        files: bytes("RssFile:"),
        peak: bytes("VmHWM:"),
    })
}

/// Processor time that the process `pid` has used on all its threads.
pub fn processor_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may hold anything; user and system time are the 12th and 13th fields after it.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks = after.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum::<u64>();
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mb = |bytes: u64| bytes / 1_000_000;
        write!(
            f,
            "{} MB resident ({} MB its own, {} MB mapped files), {} MB at most",
            mb(self.resident),
            mb(self.anonymous),
            mb(self.files),
            mb(self.peak)
        )
    }
}

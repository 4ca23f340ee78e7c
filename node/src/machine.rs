//! What this process may use of its machine, and what it does use.

use rustix::{
    fs::statvfs,
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};
use std::path::Path;

/// What is taken for the memory of a machine that does not tell.
const UNKNOWN: u64 = 2 << 30;

/// Bytes of memory that this process may take: the machine's, or what the control groups that it is in leave of it, as in a container.
pub fn memory() -> u64 {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let text = read(Path::new("/proc/meminfo")).unwrap_or_default();
    let kilobytes = |line: &str| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok();
    let machine = text.lines().find_map(kilobytes).map_or(UNKNOWN, |kilobytes| kilobytes << 10);
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    machine.min(limit(&groups, &read).unwrap_or(u64::MAX))
}

/// Bytes that are free for this process on the disk of a folder, and the size of that disk.
pub fn disk(folder: &Path) -> Option<(u64, u64)> {
    let disk = statvfs(folder).ok()?;
    Some((disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)))
}

/// What this process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Processor time of all threads.
    pub cpu_seconds: f64,
    /// When it started, in seconds since 1970.
    pub start_seconds: f64,
    /// Bytes in memory.
    pub resident_bytes: u64,
    /// Bytes of address space.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open files.
    pub open_files: u64,
    /// Files that may be open, if that is bounded.
    pub max_files: Option<u64>,
}

/// What this process uses now, where the system tells.
pub fn process() -> Option<Process> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    let process = parse(&stat, boot, clock_ticks_per_second() as f64, page_size() as u64)?;
    let open_files = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
    Some(Process { open_files, max_files: getrlimit(Resource::Nofile).current, ..process })
}

/// Reads `/proc/self/stat`; see proc_pid_stat(5). The second field, a name, may hold anything.
fn parse(stat: &str, boot: f64, ticks: f64, page: u64) -> Option<Process> {
    let fields: Vec<f64> =
        stat.rsplit_once(')')?.1.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let field = |number: usize| fields.get(number - 4).copied();
    Some(Process {
        cpu_seconds: (field(14)? + field(15)?) / ticks,
        threads: field(20)? as u64,
        start_seconds: boot + field(22)? / ticks,
        virtual_bytes: field(23)? as u64,
        resident_bytes: field(24)? as u64 * page,
        ..Process::default()
    })
}

/// The least limit of all groups that `/proc/self/cgroup` names, and of those that these are in; see cgroups(7).
fn limit(groups: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let files = groups.lines().filter_map(|line| {
        let (kinds, path) = line.split_once(':')?.1.split_once(':')?;
        let (root, name) = match kinds {
            "" => ("/sys/fs/cgroup", "memory.max"),
            kinds if kinds.split(',').any(|kind| kind == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let group = Path::new(path.trim_start_matches('/'));
        Some(group.ancestors().map(|group| Path::new(root).join(group).join(name)).collect::<Vec<_>>())
    });
    // No limit is the word "max", or a number that no machine has.
    files.flatten().filter_map(|file| read(&file)?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_least_limit_of_a_group_and_those_around_it_counts() {
        let read = |path: &Path| {
            let text = match path.to_str()? {
                "/sys/fs/cgroup/pod/memory.max" => "2000000000\n",
                "/sys/fs/cgroup/pod/one/memory.max" => "max\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes" => "9223372036854771712\n",
                "/sys/fs/cgroup/memory/job/memory.limit_in_bytes" => "3000000000\n",
                _ => return None,
            };
            Some(text.to_string())
        };
        assert_eq!(limit("0::/pod/one\n", &read), Some(2_000_000_000));
        assert_eq!(limit("5:cpu,memory:/job\n4:pids:/pod\n0::/\n", &read), Some(3_000_000_000));
        assert_eq!(limit("0::/\n", &read), None);
        assert_eq!(limit("no line of it\n:::\n", &read), None);
    }

    #[test]
    fn this_process_uses_some_of_its_machine() {
        let stat = "7 (a) b) S 1 2 3 0 -1 4 5 6 7 8 150 50 11 12 20 0 9 0 500 4096 3 18446744073709551615 1";
        let read = parse(stat, 100.0, 100.0, 4096).unwrap();
        let expected = (2.0, 105.0, 9, 4096, 3 * 4096);
        let all = (read.cpu_seconds, read.start_seconds, read.threads, read.virtual_bytes, read.resident_bytes);
        assert_eq!(all, expected);
        assert_eq!(parse("7 (a", 0.0, 100.0, 4096), None);
        let process = process().unwrap();
        assert!(process.resident_bytes > 1 << 20 && process.open_files > 0 && process.threads > 0, "{process:?}");
        assert!(disk(Path::new("/")).is_some_and(|(free, size)| free <= size && size > 0));
    }

    #[test]
    fn this_machine_has_some_memory() {
        assert!(memory() > 64 << 20, "{}", memory());
    }
}

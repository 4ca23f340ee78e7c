//! What this process may use of its machine.

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
    fn this_machine_has_some_memory() {
        assert!(memory() > 64 << 20, "{}", memory());
    }
}

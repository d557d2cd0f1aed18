//! This process as Linux sees it, under Prometheus' standard names. What cannot be read is left out.

use std::fs;
use std::str::FromStr;

use super::exposition::Page;

/// Adds the process's own series.
pub(super) fn render(page: &mut Page) {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    let stat = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::read);
    if let (Some(stat), Some(ticks)) = (stat, ticks) {
        let seconds = |count: u64| count as f64 / ticks as f64;
        page.counter("process_cpu_seconds_total", "User and system CPU time.", seconds(stat.cpu_ticks));
        page.gauge("process_virtual_memory_bytes", "Virtual memory.", stat.virtual_bytes);
        if let Some(boot) = proc_value::<f64>("/proc/stat", "btime") {
            page.gauge("process_start_time_seconds", "Start since the epoch.", boot + seconds(stat.start_ticks));
        }
    }
    if let Some(kib) = proc_value::<u64>("/proc/self/status", "VmRSS:") {
        page.gauge("process_resident_memory_bytes", "Resident memory.", kib * 1024);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        let open = entries.count();
        page.gauge("process_open_fds", "Open file descriptors.", open);
        page.gauge("os_fd_used", "Open file descriptors.", open);
    }
    if let Ok((soft, _hard)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_AS) {
        page.gauge("process_virtual_memory_max_bytes", "Virtual memory this process may have.", soft);
    }
    if let Ok((soft, _hard)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        page.gauge("process_max_fds", "File descriptors this process may open.", soft);
        page.gauge("os_fd_limit", "File descriptors this process may open.", soft);
    }
}

/// The numbers used here of `/proc/self/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
}

impl Stat {
    /// Fields are counted after the command name, which may itself hold spaces and brackets.
    fn read(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // Numbered in proc(5) from 1; the first one here is field 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)?, virtual_bytes: field(23)? })
    }
}

/// The number after `name` in a file of `name value` lines.
fn proc_value<T: FromStr>(path: &str, name: &str) -> Option<T> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_strange_command_name() {
        let text = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 40 2 0 0 20 0 9 0 500 123456 77";
        assert_eq!(Stat::read(text), Some(Stat { cpu_ticks: 42, start_ticks: 500, virtual_bytes: 123_456 }));
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let mut page = Page::default();
        render(&mut page);
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"] {
            assert!(page.text().contains(&format!("\n{name} ")), "{name} is missing");
        }
    }
}

//! What is set without being asked: each with its reason. The config overrides any of it.

/// Which machines a default is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// All.
    Every,
    /// Those that run pods.
    Pods,
    /// Those that have swap in memory.
    Swap,
}

/// How a value is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// This value, no other.
    Exactly,
    /// This number or a greater one: the kernel may have chosen more for a big machine.
    AtLeast,
    /// This number or a smaller one.
    AtMost,
    /// This value, where the kernel has the parameter at all: its module may not be loaded.
    IfThere,
}

/// One default.
#[derive(Debug)]
pub(super) struct Default {
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    pub(super) how: How,
    pub(super) on: For,
    pub(super) why: &'static str,
}

const fn default(
    on: For,
    key: &'static str,
    how: How,
    value: &'static str,
    why: &'static str,
) -> Default {
    Default {
        key,
        value,
        how,
        on,
        why,
    }
}

/// How much memory the kernel keeps free for itself.
pub(super) const RESERVE: &str = "vm.min_free_kbytes";

/// Why it is bounded.
pub(super) const WHY_RESERVE: &str = "huge pages raise it to tens of MiB on a machine of any size; small ones want them for programs";

/// The most that the kernel may keep free of so much memory: a 256th, and what it keeps
/// by its own rule, which is the square root of sixteen times the memory (mm/page_alloc.c,
/// calculate_min_free_kbytes). Where transparent huge pages can be asked for it raises
/// that by a sum that does not know how large the machine is (mm/khugepaged.c): of 1 GiB
/// it would keep 44 MiB in place of 4, and count half as much again as not available.
/// From about 11 GiB on nothing is lowered.
pub(super) fn reserve(memory_kib: u64) -> u64 {
    (memory_kib / 256).max((memory_kib * 16).isqrt())
}

use For::{Every, Pods, Swap};
use How::{AtLeast, Exactly, IfThere};

/// All of them, by what they are for.
pub(super) const DEFAULTS: &[Default] = &[
    // Pods reach each other and the world through the machine.
    default(
        Pods,
        "net.ipv4.ip_forward",
        Exactly,
        "1",
        "pods are reached through the machine",
    ),
    default(
        Pods,
        "net.bridge.bridge-nf-call-iptables",
        IfThere,
        "1",
        "services work between pods of one bridge",
    ),
    default(
        Pods,
        "net.bridge.bridge-nf-call-ip6tables",
        IfThere,
        "1",
        "services work between pods of one bridge",
    ),
    // What the kubelet checks with protect-kernel-defaults.
    default(
        Pods,
        "vm.overcommit_memory",
        Exactly,
        "1",
        "the kubelet requires it",
    ),
    default(
        Pods,
        "vm.panic_on_oom",
        Exactly,
        "0",
        "the kubelet requires it",
    ),
    default(
        Pods,
        "kernel.keys.root_maxkeys",
        AtLeast,
        "1000000",
        "each container has a keyring",
    ),
    default(
        Pods,
        "kernel.keys.root_maxbytes",
        AtLeast,
        "25000000",
        "each container has a keyring",
    ),
    // Documentation/admin-guide/sysctl/vm.rst, of swap that is in memory.
    default(
        Swap,
        "vm.swappiness",
        Exactly,
        "100",
        "a page in compressed memory is back sooner than a file from a disk",
    ),
    default(
        Swap,
        "vm.page-cluster",
        Exactly,
        "0",
        "memory gains nothing from reading ahead",
    ),
    // Documentation/admin-guide/sysctl/vm.rst, lowmem_reserve_ratio: the first is the zone of
    // devices with 24 address lines, of which only amd64 has one so small; the rest is as it was.
    #[cfg(target_arch = "x86_64")]
    default(
        Every,
        "vm.lowmem_reserve_ratio",
        IfThere,
        "0 256 32 0 0",
        "no device here needs the first 16 MiB; kept free for one, they are lost to programs",
    ),
    // A machine that nobody sits at comes back by itself.
    default(
        Every,
        "kernel.panic",
        Exactly,
        "10",
        "the machine reboots ten seconds after a panic; the kubelet requires it",
    ),
    default(
        Every,
        "kernel.panic_on_oops",
        Exactly,
        "1",
        "a broken kernel does not go on; the kubelet requires it",
    ),
    // Limits that are sized for one person's desktop.
    default(
        Pods,
        "fs.inotify.max_user_instances",
        AtLeast,
        "8192",
        "all pods share root's instances",
    ),
    default(
        Pods,
        "fs.inotify.max_user_watches",
        AtLeast,
        "524288",
        "all pods share root's watches",
    ),
    default(
        Pods,
        "vm.max_map_count",
        AtLeast,
        "262144",
        "databases map many files",
    ),
    default(
        Pods,
        "kernel.pid_max",
        AtLeast,
        "65536",
        "all pods share the process numbers",
    ),
    // Hardening that costs nothing.
    default(
        Every,
        "kernel.kptr_restrict",
        Exactly,
        "1",
        "kernel addresses help only an attacker",
    ),
    default(
        Every,
        "kernel.dmesg_restrict",
        Exactly,
        "1",
        "the kernel's log is read over the API, not by pods",
    ),
    default(
        Every,
        "kernel.kexec_load_disabled",
        IfThere,
        "1",
        "no kernel runs that the loader has not verified",
    ),
    default(
        Every,
        "kernel.unprivileged_bpf_disabled",
        AtLeast,
        "1",
        "BPF is for root alone, until the next boot",
    ),
    default(
        Every,
        "net.core.bpf_jit_harden",
        IfThere,
        "1",
        "BPF of others than root is hardened",
    ),
    default(
        Every,
        "kernel.yama.ptrace_scope",
        IfThere,
        "1",
        "a process is traced by its parents alone",
    ),
    default(
        Every,
        "kernel.sysrq",
        IfThere,
        "0",
        "a key on the console does not stop the machine",
    ),
    default(
        Every,
        "fs.protected_symlinks",
        Exactly,
        "1",
        "links in shared directories are not followed for others",
    ),
    default(
        Every,
        "fs.protected_hardlinks",
        Exactly,
        "1",
        "nobody links to files that they could not write",
    ),
    default(
        Every,
        "fs.protected_fifos",
        Exactly,
        "1",
        "pipes in shared directories are not written for others",
    ),
    default(
        Every,
        "fs.protected_regular",
        Exactly,
        "1",
        "files in shared directories are not written for others",
    ),
    default(
        Every,
        "fs.suid_dumpable",
        Exactly,
        "0",
        "what was privileged leaves no memory behind",
    ),
];

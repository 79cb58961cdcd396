//! The section `storage`: volumes and swap.

use super::List;
use crate::{
    model::Takes,
    read::{choice, object},
};

object! {
    /// What memory and disks are used for.
    StorageSection {
        /// Swap. Default: none.
        swap: SwapSection = "swap", example("{zram: {size: 25%}}");
        /// Volumes for workloads beside `/var`, each a partition of another disk. Default: none.
        volumes: List<VolumeSection> = "volumes";
    }
}

object! {
    /// A file system for workloads, ext4, at `/var/mnt/` and its name. Its partition is made where there is none of its name, on a disk that is empty or has a GPT and room. What is there is never deleted: neither when the volume is removed here, nor to make room for it.
    VolumeSection by "name" {
        /// What it is called: at most 16 small letters, digits and hyphens. Its partition is `KEELSON-` and this name.
        name: String = "name", required, example("longhorn");
        /// The disk that it is on. Exactly one must match, and never the one that holds the system.
        disk: DiskSection = "disk", required, example("{transport: nvme, size: \">= 100Gi\"}");
        /// How large its partition is made. One that is there keeps its size. Default: all that is free in one piece.
        size: String = "size", example("100Gi");
    }
}

object! {
    /// What a disk is told from others by, as `osctl get disks` shows it: all that is given must be so. In texts, `*` stands for any letters, or none.
    DiskSection {
        /// What its maker calls it.
        model: String = "model", example("Samsung SSD 980 *");
        /// Its serial number.
        serial: String = "serial", example("S64DNL0T712345");
        /// Its World Wide Identifier.
        wwid: String = "wwid", example("eui.0025385c21b12345");
        /// How it is connected.
        transport: TransportWord = "transport", example("nvme");
        /// How large it is: at least (`>=`) or at most (`<=`) so much.
        size: String = "size", example("\">= 100Gi\"");
    }
}

choice! {
    /// How a disk is connected.
    TransportWord {
        "nvme" => Nvme,
        "sata" => Sata,
        "sas" => Sas,
        "scsi" => Scsi,
        "usb" => Usb,
        "mmc" => Mmc,
        "virtio" => Virtio,
        "xen" => Xen,
        "hyperv" => Hyperv,
        "iscsi" => Iscsi,
    }
}

object! {
    /// Where memory goes that is needed and not used just now.
    SwapSection {
        /// Compressed, in memory itself.
        zram: ZramSection = "zram", required, example("{}");
        /// Whether pods may be swapped out: those of the class Burstable, each by its share of the memory (the kubelet's LimitedSwap). Default: false, only what runs on the machine beside the pods is.
        pods: bool = "pods", takes(Takes::OrchestratorRestart);
    }
}

object! {
    /// Swap that is compressed and stays in memory. Another size or algorithm makes it anew, for which what is in it must fit into memory.
    ZramSection {
        /// How much can be swapped out, before it is compressed: a share of the memory, or a size. At most twice the memory. Default: 25%.
        size: String = "size", example("512Mi");
        /// What compresses it: `zstd` makes it smaller, `lz4` is faster. Default: zstd.
        algorithm: ZramAlgorithmWord = "algorithm";
    }
}

choice! {
    /// What compresses swap.
    ZramAlgorithmWord {
        "zstd" => Zstd,
        "lz4" => Lz4,
    }
}

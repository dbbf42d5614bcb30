//! Metrics of the cache, its checksums and its tuning.

use super::table::{Row, counter, gauge, is};

pub const ROWS: &[Row] = &[
    gauge(
        "cache.bytes_used",
        "cache_used_bytes",
        "What the cache takes on its disks",
    ),
    gauge("cache.bytes_limit", "cache_limit_bytes", "What it may take"),
    gauge(
        "cache.files",
        "cache_files",
        "Files in the cache, as of the last checkpoint",
    ),
    counter(
        "cache.hit_bytes",
        "cache_hit_bytes_total",
        "Bytes of reads that the daemon answered from the cache alone; the kernel's own reads by passthrough are not seen",
    ),
    counter(
        "cache.miss_bytes",
        "cache_miss_bytes_total",
        "Bytes of reads that had to wait for the backend",
    ),
    counter(
        "cache.passthrough_opens",
        "cache_passthrough_opens_total",
        "Opens whose reads the kernel makes by itself",
    ),
    counter(
        "cache.readahead_bytes",
        "cache_readahead_bytes_total",
        "Bytes fetched before anybody asked for them",
    ),
    counter(
        "cache.readahead_used_bytes",
        "cache_readahead_used_bytes_total",
        "Of these, read later",
    ),
    counter(
        "cache.readahead_wasted_bytes",
        "cache_readahead_wasted_bytes_total",
        "Of these, left unread when their file was closed",
    ),
    counter(
        "cache.bypass_bytes",
        "cache_bypass_bytes_total",
        "Bytes read past the cache: no space, a failed disk, a file too small or being written to",
    ),
    counter(
        "cache.fills_discarded",
        "cache_fills_discarded_total",
        "Fills thrown away because the file changed meanwhile",
    ),
    counter(
        "cache.objects_evicted",
        "cache_evicted_objects_total",
        "Objects evicted",
    ),
    counter(
        "cache.trimmed_bytes",
        "cache_trimmed_bytes_total",
        "Parts of files in use that went to make room",
    ),
    gauge(
        "cache.written_today_bytes",
        "cache_written_today_bytes",
        "Written to the cache disks since midnight UTC",
    ),
    gauge(
        "cache.write_limit_bytes",
        "cache_write_limit_bytes",
        "What write_limit allows a day; 0: as much as comes",
    ),
    counter(
        "cache.doubted",
        "cache_doubted_total",
        "Records and object files that were not believed and dropped",
    ),
    is(
        "cache.directories[].state",
        "ok",
        "cache_directory_ok",
        "1 while the cache directory is in use and nothing is wrong with it",
    ),
    gauge(
        "cache.directories[].bytes_used",
        "cache_directory_used_bytes",
        "What the cache takes in one directory",
    ),
    gauge(
        "cache.directories[].disk_bytes_total",
        "cache_directory_disk_bytes",
        "Size of its disk",
    ),
    gauge(
        "cache.directories[].disk_bytes_available",
        "cache_directory_disk_available_bytes",
        "What is free of it",
    ),
    gauge(
        "scrub.running",
        "scrub_running",
        "1 while a pass over all that is cached is under way",
    ),
    counter("scrub.passes", "scrub_passes_total", "Complete passes"),
    counter(
        "scrub.answered",
        "scrub_answered_total",
        "Passes that were asked for and are done",
    ),
    counter(
        "scrub.checked_bytes",
        "scrub_checked_bytes_total",
        "Bytes compared with their checksums by the scrub",
    ),
    counter(
        "scrub.summed_bytes",
        "scrub_summed_bytes_total",
        "Bytes that the scrub summed for the first time",
    ),
    counter(
        "scrub.bad_blocks",
        "bad_blocks_total",
        "Blocks of 4 KiB that were not what was stored",
    ),
    counter(
        "scrub.bad_files",
        "bad_files_total",
        "Files they were found in",
    ),
    counter(
        "scrub.paused_ms",
        "scrub_paused_seconds_total",
        "How long the scrub waited for those who read or fetch",
    )
    .in_milliseconds(),
    gauge(
        "scrub.last_pass.files",
        "scrub_last_pass_files",
        "Files looked at in the last complete pass",
    ),
    gauge(
        "scrub.last_pass.checked_bytes",
        "scrub_last_pass_checked_bytes",
        "Bytes checked in it",
    ),
    gauge(
        "scrub.last_pass.summed_bytes",
        "scrub_last_pass_summed_bytes",
        "Bytes summed in it for the first time",
    ),
    gauge(
        "scrub.last_pass.bad_blocks",
        "scrub_last_pass_bad_blocks",
        "Bad blocks found meanwhile",
    ),
    gauge(
        "scrub.last_pass.bad_files",
        "scrub_last_pass_bad_files",
        "Files they were in",
    ),
    gauge(
        "scrub.last_pass.seconds",
        "scrub_last_pass_seconds",
        "How long it took",
    ),
    gauge(
        "tuning.adaptive",
        "tuning_adaptive",
        "1 with adaptive: bounds move with how fast the backend answers",
    ),
    gauge(
        "tuning.pieces_in_flight",
        "tuning_pieces_in_flight_limit",
        "Pieces that may be on their way from the backend at once",
    ),
    gauge(
        "tuning.piece_bytes",
        "tuning_piece_bytes",
        "How large they are cut",
    ),
    gauge(
        "tuning.readahead_bytes",
        "tuning_readahead_limit_bytes",
        "How far a stream is fetched ahead of at most",
    ),
    counter(
        "tuning.decisions",
        "tuning_decisions_total",
        "Times that one of these was moved",
    ),
];

//! What an archive may hold at most, so that a forged one isn't a decompression bomb. The limit of
//! its entries is the manifest: no more is unpacked than it announces.

use super::format::BLOCK;

/// The name of a sparse file has an additional directory and suffix.
pub(super) const NAME_BYTES_MORE: u64 = 32;
/// No line that Tenantry writes is longer.
pub(super) const LINE_BYTES_MAX: usize = 64 << 10;
/// The largest manifest: some 20 million entries. It is unpacked before anything in it is known.
pub(super) const MANIFEST_BYTES_MAX: u64 = 4 << 30;
/// The default limit of zstd's decoder, 128 MiB of memory. It keeps an archive from being a
/// decompression bomb for the memory.
pub(super) const WINDOW_LOG_MAX: u32 = 27;
/// Bytes that may follow the last entry: tar programs pad to 20 blocks.
pub(super) const END_BYTES_MAX: u64 = 20 * BLOCK;

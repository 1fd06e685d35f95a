//! Lines in, lines out.

use std::io::{self, BufRead, BufWriter};

/// Standard output, buffered. Callers flush it: an error while dropping it would go unnoticed.
pub(crate) fn output() -> BufWriter<io::StdoutLock<'static>> {
    BufWriter::with_capacity(64 << 10, io::stdout().lock())
}

/// Reads a line without its newline. False at the end of the input.
pub(crate) fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    if input.read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(true)
}

/// Whether an error came from writing to a closed pipe.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut io = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    io.any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

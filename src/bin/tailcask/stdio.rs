//! Lines in, lines out.

use std::io::{self, BufRead, BufWriter, StdoutLock, Write};

/// Standard output, buffered. Callers flush it: an error while dropping it would go unnoticed.
pub(crate) fn output() -> BufWriter<Output> {
    BufWriter::with_capacity(64 << 10, Output(io::stdout().lock()))
}

/// Standard output. Its errors say so: a device that is full is not the one of the store.
#[derive(Debug)]
pub(crate) struct Output(StdoutLock<'static>);

fn named<T>(result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("standard output: {error}")))
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        named(self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        named(self.0.flush())
    }
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

//! Layers against files in memory: what a read finds is what was written, whatever was uploaded in between.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

const SPACE: u64 = 96;

#[derive(Clone, Debug)]
enum Step {
    Write {
        offset: u64,
        length: u32,
    },
    Size(u64),
    /// What takes writes is to be uploaded from now on.
    Freeze,
    /// What was to be uploaded is on the backend.
    Done,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..SPACE, 1u32..24).prop_map(|(offset, length)| Step::Write { offset, length }),
        2 => (0..SPACE).prop_map(Step::Size),
        1 => Just(Step::Freeze),
        1 => Just(Step::Done),
    ]
}

/// A file, and what a journal would hold of it.
#[derive(Default)]
struct Model {
    whole: Vec<u8>,
    backend: Vec<u8>,
    open: Option<Layer>,
    frozen: Option<Layer>,
    pieces: HashMap<u32, Vec<u8>>,
    next: u32,
}

impl Model {
    fn layers(&self) -> Vec<&Layer> {
        self.open.iter().chain(&self.frozen).collect()
    }

    fn open_layer(&mut self) -> &mut Layer {
        let size_bytes = self.whole.len() as u64;
        let (generation, first) = (Generation(0), Sequence(0));
        let new = Layer::new(generation, first, None, size_bytes, Timestamp::default());
        self.open.get_or_insert(new)
    }

    fn read(&self) -> Vec<u8> {
        let layers = self.layers();
        if layers.is_empty() {
            return self.backend.clone();
        }
        let mut found = Vec::new();
        for (range, origin) in origins(&layers, ByteRange::new(0, 2 * SPACE)) {
            assert_eq!(range.start, found.len() as u64, "no gaps");
            let length = range.length_bytes() as usize;
            match origin {
                Origin::Zeros => found.extend(vec![0; length]),
                Origin::Journal(part) => {
                    let data = &self.pieces[&part.piece.data_offset];
                    found.extend(&data[part.skip..part.skip + length]);
                }
                Origin::Backend => {
                    let held = self.backend.iter().skip(range.start as usize).copied();
                    found.extend(held.chain(std::iter::repeat(0)).take(length));
                }
            }
        }
        found
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write { offset, length } => self.write(offset, length),
            Step::Size(size_bytes) => {
                self.open_layer().set_size(size_bytes, Timestamp::default());
                self.whole.resize(size_bytes as usize, 0);
            }
            Step::Freeze if self.frozen.is_none() => self.frozen = self.open.take(),
            Step::Freeze => {}
            Step::Done => self.upload(),
        }
    }

    fn write(&mut self, offset: u64, length: u32) {
        self.next += 1;
        let data: Vec<u8> = (0..length)
            .map(|byte| (self.next * 31 + byte) as u8)
            .collect();
        let piece = Piece::for_tests(self.next, length);
        self.pieces.insert(self.next, data.clone());
        self.open_layer()
            .write(offset, &[piece], Timestamp::default());
        let end = offset as usize + data.len();
        self.whole.resize(self.whole.len().max(end), 0);
        self.whole[offset as usize..end].copy_from_slice(&data);
    }

    /// As an upload does it: the lowest size, the extents, the size.
    fn upload(&mut self) {
        let Some(layer) = self.frozen.take() else {
            return;
        };
        self.backend
            .resize(self.backend.len().min(layer.floor as usize), 0);
        for (range, part) in layer.extents.iter() {
            let data = &self.pieces[&part.piece.data_offset][part.skip..];
            let end = range.end as usize;
            self.backend.resize(self.backend.len().max(end), 0);
            self.backend[range.start as usize..end]
                .copy_from_slice(&data[..range.length_bytes() as usize]);
        }
        self.backend.resize(layer.size_bytes as usize, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_read_finds_what_was_written_and_an_upload_leads_there(
        steps in prop::collection::vec(any_step(), 1..40),
    ) {
        let mut model = Model::default();
        for step in &steps {
            model.step(step);
            prop_assert_eq!(model.read(), model.whole.clone());
        }
        model.step(&Step::Done);
        model.step(&Step::Freeze);
        model.step(&Step::Done);
        prop_assert_eq!(model.backend, model.whole);
    }
}

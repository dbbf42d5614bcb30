//! The erasure code of large stripes: Reed-Solomon over GF(2^8) with the polynomial 0x11d and ISA-L's Cauchy matrix
//! (`gf_gen_cauchy1_matrix`). The code is part of the format: what was written with it is read with it.

use crate::sys::linear_map::LinearMap;
use std::array;

/// Multiples of a byte's worth of field elements are added up this many bytes at a time.
const LANE_BYTES: usize = 64;
/// Parity is made piece by piece, each of which stays in the processor's first cache until all data is added.
const BLOCK_BYTES: usize = 8 << 10;
/// x^8 in the field, as the lowest byte.
const POLYNOMIAL: u8 = 0x1d;

/// A code that makes `parity` shards from `data` shards, any `data` of which give them all.
pub trait ErasureCode: Send + Sync {
    /// Makes the parity shard `row` (0 is the first one) of all data shards. Data shards that are shorter end in zeros.
    fn encode(&self, row: usize, data: &[&[u8]], parity: &mut [u8]);

    /// Makes the data shards that are missing. `shards` are data and parity in order, of one length each; `None` where fewer
    /// than `data` of them are there.
    fn rebuild(&self, shards: &mut [Option<Vec<u8>>]) -> Option<()>;
}

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cauchy {
    data: usize,
    parity: usize,
}

impl Cauchy {
    /// `data + parity` is at most 256.
    pub fn new(data: usize, parity: usize) -> Self {
        debug_assert!(data > 0 && data + parity <= 256);
        Self { data, parity }
    }

    /// What a data shard counts in a shard.
    fn coefficient(&self, shard: usize, column: usize) -> u8 {
        match shard < self.data {
            true => u8::from(shard == column),
            false => invert((shard ^ column) as u8),
        }
    }

    /// Rows of the inverse of what the shards at hand are made with: they make the data shards.
    fn decoding_rows(&self, at_hand: &[usize]) -> Option<Vec<Vec<u8>>> {
        let row = |shard: &usize| {
            let columns = 0..self.data;
            columns
                .map(|column| self.coefficient(*shard, column))
                .collect()
        };
        invert_matrix(at_hand.iter().map(row).collect())
    }
}

impl ErasureCode for Cauchy {
    fn encode(&self, row: usize, data: &[&[u8]], parity: &mut [u8]) {
        let coefficients = (0..self.data).map(|column| self.coefficient(self.data + row, column));
        let multipliers: Vec<Multiplier> = coefficients.map(Multiplier::new).collect();
        for (number, block) in parity.chunks_mut(BLOCK_BYTES).enumerate() {
            block.fill(0);
            let begin = number * BLOCK_BYTES;
            for (multiplier, data) in multipliers.iter().zip(data) {
                let rest = data.get(begin..).unwrap_or_default();
                let length = rest.len().min(block.len());
                multiplier.add(&rest[..length], &mut block[..length]);
            }
        }
    }

    fn rebuild(&self, shards: &mut [Option<Vec<u8>>]) -> Option<()> {
        debug_assert_eq!(shards.len(), self.data + self.parity);
        let there = |shard: &usize| shards[*shard].is_some();
        let at_hand: Vec<usize> = (0..shards.len()).filter(there).take(self.data).collect();
        let length = shards.iter().flatten().next()?.len();
        if at_hand.len() < self.data || shards.iter().flatten().any(|s| s.len() != length) {
            return None;
        }
        let rows = self.decoding_rows(&at_hand)?;
        let missing: Vec<usize> = (0..self.data).filter(|s| shards[*s].is_none()).collect();
        for shard in missing {
            let mut made = vec![0; length];
            for (coefficient, source) in rows[shard].iter().zip(&at_hand) {
                let source = shards[*source].as_ref()?;
                Multiplier::new(*coefficient).add(source, &mut made);
            }
            shards[shard] = Some(made);
        }
        Some(())
    }
}

/// What adds multiples.
struct Multiplier {
    coefficient: u8,
    map: LinearMap,
}

impl Multiplier {
    fn new(coefficient: u8) -> Self {
        let image = |bit: usize| multiply(coefficient, 1 << bit);
        Self {
            coefficient,
            map: LinearMap::new(array::from_fn(image)),
        }
    }

    /// `sum += coefficient * source`, byte by byte.
    fn add(&self, source: &[u8], sum: &mut [u8]) {
        let done = self.map.add_to_front(source, sum);
        add_multiple(self.coefficient, &source[done..], &mut sum[done..]);
    }
}

/// The same without tables, and without instructions that a processor may not have: all bytes are doubled at once, and added
/// where the coefficient has a bit. The compiler makes vector instructions of it.
fn add_multiple(coefficient: u8, source: &[u8], sum: &mut [u8]) {
    let (sources, source_rest) = source.as_chunks::<LANE_BYTES>();
    let (sums, sum_rest) = sum.as_chunks_mut::<LANE_BYTES>();
    for (source, sum) in sources.iter().zip(sums) {
        add_multiple_of_lane(coefficient, *source, sum);
    }
    for (source, sum) in source_rest.iter().zip(sum_rest) {
        *sum ^= multiply(coefficient, *source);
    }
}

#[inline(always)]
fn add_multiple_of_lane(coefficient: u8, mut power: [u8; LANE_BYTES], sum: &mut [u8; LANE_BYTES]) {
    let mut left = coefficient;
    loop {
        if left & 1 != 0 {
            *sum = array::from_fn(|at| sum[at] ^ power[at]);
        }
        left >>= 1;
        if left == 0 {
            return;
        }
        power = array::from_fn(|at| double(power[at]));
    }
}

#[inline(always)]
fn double(element: u8) -> u8 {
    let overflow = ((element as i8) >> 7) as u8;
    (element << 1) ^ (overflow & POLYNOMIAL)
}

fn multiply(left: u8, right: u8) -> u8 {
    let (mut product, mut power, mut left) = (0, right, left);
    while left != 0 {
        if left & 1 != 0 {
            product ^= power;
        }
        power = double(power);
        left >>= 1;
    }
    product
}

/// The 254th power, which is that of all squares up to the 128th. Of 0 it is 0.
fn invert(element: u8) -> u8 {
    let (mut product, mut square) = (1, element);
    for _ in 1..8 {
        square = multiply(square, square);
        product = multiply(product, square);
    }
    product
}

/// By Gauss and Jordan; `None` where there is no inverse.
fn invert_matrix(mut matrix: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    let size = matrix.len();
    for (row, cells) in matrix.iter_mut().enumerate() {
        cells.extend((0..size).map(|column| u8::from(row == column)));
    }
    for column in 0..size {
        let pivot = (column..size).find(|row| matrix[*row][column] != 0)?;
        matrix.swap(column, pivot);
        let inverse = invert(matrix[column][column]);
        for cell in &mut matrix[column] {
            *cell = multiply(*cell, inverse);
        }
        let pivot = matrix[column].clone();
        for (row, cells) in matrix.iter_mut().enumerate() {
            if row != column {
                let factor = cells[column];
                Multiplier::new(factor).add(&pivot, cells);
            }
        }
    }
    Some(
        matrix
            .into_iter()
            .map(|mut row| row.split_off(size))
            .collect(),
    )
}

#[cfg(test)]
#[path = "erasure_tests.rs"]
mod tests;

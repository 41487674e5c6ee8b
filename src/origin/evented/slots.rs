//! Numbered slots that are used again.

/// Values in slots. A slot that is left is not used again before [`ReusedSlots::reuse`]: what is still on its way to its
/// last value must not reach the next one.
pub struct ReusedSlots<T> {
    values: Vec<Option<T>>,
    free: Vec<usize>,
    left: Vec<usize>,
}

impl<T> Default for ReusedSlots<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new(), left: Vec::new() }
    }
}

impl<T> ReusedSlots<T> {
    /// Takes a slot.
    pub fn insert(&mut self, value: T) -> usize {
        if let Some(slot) = self.free.pop() {
            assert!(self.values[slot].is_none(), "a free slot is empty");
            self.values[slot] = Some(value);
            return slot;
        }
        self.values.push(Some(value));
        self.values.len() - 1
    }

    /// The value in a slot.
    pub fn at_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.values.get_mut(slot)?.as_mut()
    }

    /// Takes the value out, which is to come back by [`ReusedSlots::put_back`], or its slot to be left.
    pub fn lend(&mut self, slot: usize) -> Option<T> {
        self.values.get_mut(slot)?.take()
    }

    /// Puts a value back that was lent.
    pub fn put_back(&mut self, slot: usize, value: T) {
        assert!(self.values[slot].is_none(), "what was lent left its slot empty");
        self.values[slot] = Some(value);
    }

    /// Leaves a slot, whose value is dropped if it was not lent.
    pub fn leave(&mut self, slot: usize) {
        self.values[slot] = None;
        debug_assert!(!self.left.contains(&slot), "a slot is left once");
        self.left.push(slot);
    }

    /// Slots that were left may be used again.
    pub fn reuse(&mut self) {
        self.free.append(&mut self.left);
    }

    /// How many slots there are, used or not.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// How many are used.
    pub fn used(&self) -> usize {
        self.values.len() - self.free.len() - self.left.len()
    }
}

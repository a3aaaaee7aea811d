//! Where the values of templates' instances were written.

/// Where the values of templates' instances were written.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Length of the text: greater offsets are those of made values.
    end: usize,
    /// Offset in the text and number of the instance, of one made value after the other.
    made: Vec<(usize, usize)>,
    /// A description of the values of each instance.
    instances: Vec<String>,
}

impl Places {
    /// For a text of this length.
    pub(super) fn new(end: usize) -> Self {
        Self {
            end,
            ..Self::default()
        }
    }

    /// From now on values are made for the instance that `shown` describes.
    pub(super) fn begin_instance(&mut self, shown: String) {
        self.instances.push(shown);
    }

    /// How many values were made.
    pub(super) fn made(&self) -> usize {
        self.made.len()
    }

    /// The offset in the text of what was written for a value.
    pub(crate) fn written(&self, at: usize) -> usize {
        self.find(at).map_or(at, |(offset, _)| offset)
    }

    /// The instance in which a value was made, such as `n = 17`.
    pub(crate) fn instance(&self, at: usize) -> Option<&str> {
        let (_, instance) = self.find(at)?;
        self.instances.get(instance).map(String::as_str)
    }

    fn find(&self, at: usize) -> Option<(usize, usize)> {
        let index = at.checked_sub(self.end + 1)?;
        self.made.get(index).copied()
    }

    /// A new offset for a value that was written at `offset`.
    pub(super) fn add(&mut self, offset: usize) -> usize {
        self.made.push((offset, self.instances.len() - 1));
        self.end + self.made.len()
    }
}

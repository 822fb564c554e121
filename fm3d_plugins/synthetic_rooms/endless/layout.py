"""What the numbers of an endless room's tables mean; shared by the kernels that write and read."""

MOST_SOLIDS = 12
"""Things in a room; the walls are beside them."""

BOX, SPHERE, CYLINDER = 0, 1, 2
"""Kinds of solids: |x|, |y|, |z| <= 1; |p| <= 1; |(x, y)| <= 1 and |z| <= 1, each in its frame."""

KIND, CENTER, AXES, HALF, FACES = 0, 1, 4, 13, 16
"""Columns of a solid: its kind, centre (3), unit axes as rows (9), half sizes (3), first face."""
SOLID_COLUMNS = 17

PATTERN, SEED, CELL, TURN, SHIFT, GRAIN, COLOR, MIXING, GLOSS = 0, 1, 2, 3, 5, 7, 8, 11, 20
"""Columns of a face: pattern, its seed, cell size (m), cosine and sine of its turn, shift (2, m),
size of its fine noise (m), mean colour (3), colours of pattern, low and fine noise (9), gloss."""
FACE_COLUMNS = 21

FBM, CHECKER, STRIPES, BRICKS, LETTERS, DISCS = range(6)
NUM_PATTERNS = 6

SIZE, AMBIENT, GAIN, LIGHTS = 0, 3, 6, 7
"""Entries of the room: its sizes (3, m; the floor's middle is the origin), light from everywhere
(RGB), exposure, then for each lamp its place (3) and its colour times power (3)."""
NUM_LIGHTS = 2
ROOM_ENTRIES = LIGHTS + 6 * NUM_LIGHTS

ARC, WALK, PAN = 0, 1, 2
"""Kinds of paths: around a point that is looked at; straight on; turning on the spot."""

"""Words, numbers and codes to put on pages.

Training and test words never meet: a word belongs to one split by its hash.
"""

import zlib

ONSET = """b c d f g h j k l m n p r s t v w z br ch cl cr dr fl fr gl gr pl pr qu sc sh sl sp st str th tr tw
wh y x""".split()
VOWEL = "a e i o u a e i o ai ea ee ia io oa oo ou".split()
CODA = "b ck d f g k l ll m n n nd ng nt p r r rd rk s ss st t t x y z".split() + [""] * 12
REAL = """account address amount apple april arrow august autumn balance bamboo banana basket beach berry bicycle
black blue branch bread bridge bright brown bucket budget butter button cabin cable camera candle canvas
carbon castle cattle cedar cellar center chain chair cherry circle city class clock cloud coast cobalt
coffee color copper corner cotton count country crystal current customer daily date dealer december delta
depot desert device dinner doctor dollar dragon driver eagle early earth eleven email empty energy engine
entry evening expert export fabric factor family father feather february figure final finger flight floor
flower forest fourth frame friday friend future garden gentle ginger glass global golden grain gravel green
guest guitar hammer harbor hazel heart height helmet honey horizon hotel hour house hundred hunter import
indigo invoice island item ivory jacket january jasmine jersey journey july june jungle kernel kettle
kingdom kitchen ladder lake lamp large lemon length letter level library light lily linen liquid lobby local
lotus lunar machine magnet maple march marble margin market master meadow medium melon memory menu metal
middle mint mirror model modern monday month morning motor mountain museum music name nature nectar network
night north number oak ocean october office olive onion open orange orbit order organ oxygen paint panel
paper parcel parent partner path pearl pebble pencil pepper permit phone photo piano picture planet plastic
plate pocket poem point polar pond powder price print profit purple quality quarter quick quiet rabbit radio
rain raven record region report rice ribbon river road robin rocket room rose round royal ruby sailor salad
sample sand saturday scale school season second sector senior service shadow sheet shelf shell shore signal
silver simple sister size small smoke snow social solar south spice spring square stable star state station
status steel stone store storm street strong studio subject sugar summer sunday sunset supply table tailor
target tax tea temple theater third thunder ticket tiger timber time title today token topaz total tower
town trade train travel tree tulip tunnel turtle type unit upper urban valley value vector velvet vendor
version village violet vision voyage wagon walnut water weather week weight west wheat white willow window
winter wonder yard year yellow zebra zone""".split()
BUTTONS = """save open close cancel apply print send reply delete copy paste undo redo search help exit start stop
pause play next back finish submit accept decline update upload download share edit view login logout
reset retry export import add remove rename refresh connect settings options install about more less
zoom record mute buy sell order confirm""".split()
DIGITS = "0123456789"


def split_of(word):
    """'test' for one word in eight, else 'train'; upper and lower case are the same word."""
    return "test" if zlib.crc32(word.lower().encode()) % 8 == 0 else "train"


def pseudo(rng, longest):
    """A pronounceable made-up word of at most `longest` characters."""
    word = ""
    for _ in range(rng.randint(1, 3)):
        word += rng.choice(ONSET) + rng.choice(VOWEL) + rng.choice(CODA)
    return word[: max(2, longest)]


def bare_word(rng, split, longest):
    """A lower-case word of the split; training also sees letter salad, so that no letter pair is impossible."""
    for _ in range(200):
        kind = rng.random()
        if kind < 0.35 or (split == "test" and kind < 0.7):
            word = rng.choice(REAL if rng.random() < 0.8 else BUTTONS)
        elif kind < 0.8 or split == "test":
            word = pseudo(rng, rng.randint(3, max(3, longest)))
        else:
            length = rng.randint(2, max(2, min(7, longest)))
            word = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(length))
        if len(word) <= longest and split_of(word) == split:
            return word
    return pseudo(rng, longest)


def cased(rng, word):
    """Mostly Title case, else UPPER or lower."""
    kind = rng.random()
    return word.capitalize() if kind < 0.65 else word.upper() if kind < 0.85 else word


def word(rng, split, longest=9):
    """A word in some case."""
    return cased(rng, bare_word(rng, split, longest))


def digits(rng, n):
    """n digits, the first not zero."""
    return rng.choice("123456789") + "".join(rng.choice(DIGITS) for _ in range(n - 1))


def value(rng, split, longest=9):
    """A form's value: a word, a number, a price, a date, a per cent figure, a code."""
    kind = rng.random()
    if kind < 0.4 or longest < 4:
        return word(rng, split, longest)
    if kind < 0.6:
        return digits(rng, rng.randint(1, min(6, longest)))
    if kind < 0.7 and longest >= 5:
        return "$" * (rng.random() < 0.5) + digits(rng, rng.randint(1, min(4, longest - 4))) + "." + digits(rng, 2)
    if kind < 0.8 and longest >= 5:
        sep = rng.choice("/-.:")
        return f"{rng.randint(1, 31):02d}{sep}{rng.randint(1, 12):02d}"
    if kind < 0.88:
        return f"{rng.randint(1, 99)}%"
    letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.randint(1, 2)))
    return letters + rng.choice(["-", ""]) + digits(rng, rng.randint(1, max(1, min(4, longest - 3))))

"""What the lab's letters are made of: names, things and sentences.

A pattern is text with ``{slot}``, replaced by one of the slot's own patterns,
and ``[this|that]``, replaced by one of the alternatives; both nest.

The classes overlap on purpose. `TALK` is what anybody says about gardens, journeys,
computers, kitchens and books; newsletters, friends and colleagues, and now and
then spam, draw on it alike, so that a classifier has to learn the rest.
Things are plural or uncountable, which spares the grammar articles and numbers.
"""

from __future__ import annotations

from typing import Final

Slots = dict[str, tuple[str, ...]]

TOPICS: Final = ("garden", "travel", "software", "kitchen", "books")

COMMON: Final[Slots] = {
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "when": (
        *("this [week|weekend|month]", "next [week|weekend|month|{day}]", "on {day}"),
        *("tomorrow", "over the holidays", "before the end of {month}", "in [early|late] {month}"),
        *("on {day} [morning|afternoon|evening]", "after the weekend", "later this {season}"),
    ),
    "good": (
        *("lovely", "good", "great", "really nice", "surprisingly good", "wonderful", "decent"),
        *("splendid", "fine", "pleasant", "rather special"),
    ),
    "bit": ("a bit", "a little", "quite", "rather", "somewhat", "slightly"),
    "weather": (
        *("rain", "snow", "frost", "sunshine", "fog", "wind", "drizzle", "thunder", "heat", "hail"),
    ),
    "data": (
        *("calendars", "backups", "spreadsheets", "shared folders", "passwords", "photos"),
        *("reports", "invoices", "old messages", "notes", "contacts", "scans"),
    ),
    "trip": (
        *("train tickets", "weekend trips", "ferry crossings", "hotel rooms", "guided tours"),
        *("night trains", "cycling holidays", "cabins", "bus passes", "hiking trails"),
    ),
    "town": (
        *("Lisbon", "Ghent", "Bergen", "Zürich", "Málaga", "Kraków", "Århus", "Trieste", "Tallinn"),
        *("Porto", "Graz", "Galway", "Uppsala", "Besançon", "Łódź", "Bristol", "Freiburg", "Split"),
    ),
    "place": (
        *("{town}", "{town}", "{town}", "the lake", "the coast", "the islands", "the mountains"),
        "the old town",
    ),
    "person": (
        *("Anna", "Tom", "Zoë", "Priya", "Jürgen", "Mateo", "Ingrid", "Kofi", "Renée", "Lukas"),
        *("Marta", "Owen", "Søren", "Aiko", "Fatima", "Noah", "Chloé", "Björn", "Elif", "Hugo"),
        *("Sofia", "Pavel", "Greta", "Ravi", "Nina", "Jonas", "Łucja", "Sam", "Teresa", "Yusuf"),
    ),
    "relative": (
        *(
            "my sister",
            "my brother",
            "Mum",
            "Dad",
            "Grandma",
            "my aunt",
            "the children",
            "the kids",
        ),
        *("my cousin", "our neighbour", "the neighbours", "{person}", "{person}"),
    ),
    "size": ("small", "large", "tiny", "simple", "proper", "huge", "handy", "modest"),
    "event": (
        *("the [birthday|housewarming] party", "the concert", "the meeting", "the workshop"),
        *("the market", "the school fair", "the open day", "the picnic", "the film evening"),
        *("the training", "the exhibition", "the {season} fair"),
    ),
}

NAMES: Final[Slots] = {
    "surname": (
        *("Fernandes", "Okafor", "Lindqvist", "Müller", "Novák", "Tanaka", "O'Brien", "Peeters"),
        *("Kowalski", "García", "Demir", "Rossi", "Haugen", "Sørensen", "Nguyen", "Whitlock"),
        *("Bakker", "Ferrari", "Moreau", "Szabó", "Petrov", "Mensah", "Kaur", "Ashworth", "Żak"),
    ),
    "mail_host": (
        *("postbox.example", "example.org", "example.net", "mail.example.com", "inbox.example"),
        *("home.example.net", "riverside.example", "uni.example.org", "freepost.example"),
        *("familymail.example", "orchard-road.example", "cable.example.net", "letterbox.example"),
    ),
    "office_host": (
        *("brightworks.example", "harbour-design.example", "example.com", "kestrel-it.example"),
        *("office.example.org", "northgate.example", "school.example.net", "studio9.example"),
        *("townhall.example", "millbridge.example", "cooperative.example.org"),
    ),
    "brand_first": (
        *("Willow", "Amber", "North", "Copper", "Juniper", "Harbour", "Blue", "Old Mill", "Clover"),
        *("Maple", "Silver", "Lantern", "Cedar", "Meadow", "Iron", "Wren", "Granite", "Orchard"),
        *("Paper", "Saffron", "Thistle", "Velvet", "Bramble", "Tide"),
    ),
    "spam_host": (
        *("claims-office.example", "quick-desk.example", "fastpay.example", "award.example.net"),
        *("notice.example.com", "mega-health.example", "trust-desk.example.org", "lucky7.example"),
        *("easy-credit.example", "online-rx.example", "global-agent.example", "vip.example.net"),
    ),
}

BRANDS: Final[dict[str, tuple[str, ...]]] = {
    "garden": ("Gardens", "Nursery", "Seeds", "& Spade", "Plants", "Allotment", "Greenhouse"),
    "travel": ("Travel", "Journeys", "Trails", "Railtours", "& Compass", "Escapes", "Ferries"),
    "software": ("Software", "Apps", "Cloud", "Labs", "Desk", "Systems", "Notes"),
    "kitchen": ("Kitchen", "Pantry", "Coffee", "Bakehouse", "& Ladle", "Spices", "Table"),
    "books": ("Books", "Press", "Pages", "& Quill", "Library", "Readers", "Editions"),
}

THINGS: Final[dict[str, tuple[str, ...]]] = {
    "garden": (
        *("secateurs", "tomato seeds", "terracotta pots", "lavender", "raised beds", "compost"),
        *("tulip bulbs", "watering cans", "rose bushes", "herb boxes", "apple trees", "gloves"),
        *("bird feeders", "climbing beans", "pumpkins", "garden chairs", "dahlias", "strawberries"),
    ),
    "travel": (
        *("rucksacks", "walking boots", "sleeping bags", "city maps", "suitcases", "rain jackets"),
        *("tents", "head torches", "flasks", "bicycle bags", "phrase books", "sun hats", "towels"),
        *("binoculars", "adapters", "hammocks"),
    ),
    "software": (
        *("keyboards", "printers", "phones", "laptops", "headphones", "screens", "cables"),
        *("chargers", "tablets", "speakers", "cameras", "desk lamps", "photo albums", "scanners"),
        *("memory cards", "notebooks"),
    ),
    "kitchen": (
        *("espresso cups", "sourdough loaves", "cast iron pans", "olive oil", "plum jam", "knives"),
        *("coffee beans", "soup bowls", "spice jars", "cinnamon rolls", "cutting boards", "pasta"),
        *("crème brûlée dishes", "tea pots", "aprons", "cookbooks", "cheese boards", "honey"),
    ),
    "books": (
        *("novels", "crime stories", "picture books", "short stories", "poems", "audio books"),
        *("notebooks", "biographies", "maps", "second-hand books", "comics", "puzzles", "diaries"),
        *("history books", "reading lamps", "travel guides", "bookmarks", "magazines"),
    ),
}

WARES: Final[dict[str, tuple[str, ...]]] = {
    "garden": (),
    "travel": ("{trip}", "{trip}", "{trip}", "{trip}", "{trip}", "{trip}", "{trip}", "{trip}"),
    "software": ("licences", "web shops", "mailboxes", "team accounts", "online courses"),
    "kitchen": ("cooking classes", "gift baskets"),
    "books": ("subscriptions", "signed copies"),
}
"""Things that are sold but not lent to friends; newsletters add them to `THINGS`."""

TALK: Final[dict[str, tuple[str, ...]]] = {
    "garden": (
        "After all the {weather} the {thing} [look|seem] {bit} tired.",
        "The first frost is [expected|likely] {when}, so [cover|bring in] the {thing}.",
        "It is a {good} time to [plant|move|divide|order] {thing}.",
        "{person} [swears by|always recommends] {thing} [in the shade|by the wall].",
        "We have [never|rarely] seen so many {thing} as this {season}.",
        "With [some|enough] sun and {size} pots, {thing} [grow|do well] even on a balcony.",
        "Water the {thing} in the [morning|evening], not at noon.",
        "[Slugs|Birds|Snails|The neighbour's cat] got at the {thing} again.",
        "The soil is still {bit} [wet|cold|dry], but the {thing} do not [mind|care].",
        "Last {season} the {thing} were over by {month}.",
    ),
    "travel": (
        "The train to {town} takes [two|three|four|five] hours and the view is {good}.",
        "In {month} there is hardly anybody in {town}, and {trip} cost [less|next to nothing].",
        "[Take|Pack|Bring] {thing}, because {weather} can [come|arrive] quickly near {place}.",
        "{person} came back from {place} with {size} stories about {trip}.",
        "From the station it is [a short walk|an hour by bus|not far] to {place}.",
        "The [museum|harbour|castle|market] in {town} opens at {clock} on {day}.",
        "It is best to [book|reserve] {trip} early, {month} fills up [fast|quickly].",
        "There is a {good} [café|bakery|viewpoint|bookshop] behind the station in {town}.",
        "The weather in {town} should be {good} {when}.",
        "Nobody needs more than {thing} and a {size} bag for {place}.",
    ),
    "software": (
        "The [new|latest] version [handles|opens|saves] {data} much [faster|better].",
        "Please [check|keep|update] your {data} {when}.",
        "Some of the {data} [stopped working|were missing|came back] after the update.",
        "[Sharing|Finding|Printing|Moving] {data} is {bit} easier now.",
        "{person} wrote a {size} guide about {data}.",
        "It takes [ten|twenty|thirty] minutes and then the {data} are [safe|ready|in order].",
        "The {data} now [open|start|work] on the phone too.",
        "If the {data} look [strange|wrong|empty], [restart|sign in again|wait a minute].",
        "We [moved|copied|tested] the {data} {when} and nothing was lost.",
        "There is a {good} [shortcut|setting|trick] for {data} that few people know.",
    ),
    "kitchen": (
        "Warm {thing} and a {size} [salad|soup|sandwich] are all one needs {when}.",
        "{person} makes {good} [bread|soup|cake|dumplings] with [very little|hardly any] effort.",
        "Leave it in the oven for [ten|twenty|forty] minutes at {oven} degrees.",
        "[Nothing|Few things] goes better with {thing} than [butter|lemon|fresh herbs|good bread].",
        "The recipe from {place} needs [a pinch of salt|two eggs|some cinnamon|a glass of wine].",
        "In {season} we [cook|bake|eat] {thing} nearly every {day}.",
        "The {thing} from {place} are {good}, though {bit} expensive.",
        "Keep the {thing} in a [dry|cool|dark] place.",
        "[Soup|Stew|Curry|Pie] tastes best the day after.",
        "Let the dough rest [over night|for an hour|while you have tea].",
    ),
    "books": (
        "The [second|last|first] chapter about {place} is {good}.",
        "{person} [reads|has read] nothing but {thing} since {month}.",
        "It is the kind of story one [finishes|starts] on a {day} with {weather} outside.",
        "The {thing} by the door are [mostly|all] from {place}.",
        "There is a reading of {thing} on {day} at {clock}.",
        "The library [keeps|lends|has] {size} {thing} for children.",
        "[Half|Most] of the {thing} are about {place} and the sea.",
        "We [liked|loved|enjoyed] the ending, although it is {bit} sad.",
        "The [author|translator] grew up in {place} and writes about {season} there.",
        "On {day} evenings we read {thing} aloud.",
    ),
}

SMALL_TALK: Final = (
    "It has been a {good} {season} so far.",
    "We hope you [had|are having] a {good} [week|weekend|start into {month}].",
    "{month} is [nearly over|here again|always {bit} busy].",
    "What a [week|month|{season}] that was!",
    "There was {weather} all {day} here[|, and more is coming].",
    "{person} [took a day off|has {day} off], which is [no luxury|only fair].",
    "Time flies, and {month} is [coming|around the corner].",
    "Many thanks for [your patience|your message|writing back|all the kind words].",
    "By the way, the [shop|office|library] is closed on {day}.",
    "The days are getting [longer|shorter], and it [shows|is fine with us].",
    "Here is [a short note|some news|what happened] [from us|from {place}] before {day}.",
)

NEWSLETTER: Final[Slots] = {
    "subject": (
        "{thing.title} [for|this] {season}: {percent} off [until|through] {day}",
        "[New|Just arrived|Back in stock]: {thing} [from {place}|for {month}]",
        "Your {month} [news|letter|update] from {brand}",
        "[Our|The] {season} [sale|collection|list] [starts|is here|opens {day}]",
        "[Three|Four|Five|Seven] ideas for {thing} {when}",
        "{brand} [weekly|monthly]: {thing}, {thing} and more",
        "Last [days|chance]: {thing} from {price}",
        "What [we|our readers] [say|think] about {thing}",
        "Free delivery on {thing} {when}",
        "A [few|couple of] things worth knowing about {thing}",
    ),
    "greeting": (
        *("Hello,", "Dear [customer|reader|friend],", "Good morning,", "Hello from {place}!"),
        *("Dear friends of {brand},", "Hi there,", "Welcome to our {month} letter,"),
    ),
    "intro": (
        "the {season} [collection|range|list] has arrived, and {thing} are [first|the favourite].",
        "[this|each] month we [pick|choose|collect] what our [team|readers] liked [best|most].",
        "{thing} are back in [stock|the shop], and there are [more|new] {thing} as well.",
        "we spent {month} in {place} to find {thing} worth [showing|recommending] to you.",
        "you asked for {thing}, so [here|below] are {count} of them at [reduced|friendly] prices.",
        "until {day} [every order|each purchase|all bookings] of {thing} [comes|come] with a gift.",
        "our {season} [sale|offers] [started|begin] on {day}: up to {percent} off {thing}.",
    ),
    "headline": (
        "{thing.title} [from|at] {price}",
        "{percent} off {thing}",
        "[New|Editor's choice|Popular]: {thing}",
        "{thing.title} for {season}",
        "[Reader|Customer] favourite: {thing}",
        "[How to|When to] [choose|use|keep] {thing}",
        "{place}: {thing} and more",
    ),
    "offer": (
        "Order [two|three|a pair] before {day} and [pay {price}|save {percent}].",
        "[Was|Before] {price}, now [only|just] {price} [while stocks last|until {date}].",
        "[Members|Subscribers|Customers] [get|receive] {percent} off with the code {code}.",
        "Delivery is free [above|from] {price} [until|through] {date}.",
        "[Book|Order|Choose] by {date}; [returns|changes|cancellations] are free for {count} days.",
        "In [three|four|five] [colours|sizes|versions], from {price}.",
        "[Our price|Price] {when}: {price}, [tax|delivery|breakfast] included.",
        "Rated [four|five] stars by {count} [buyers|readers|guests].",
        "Only {count} [left|available], so [do not wait|be quick].",
        "Not happy? [Your money back|Free exchange] within {count} days.",
    ),
    "call": (
        *("Read more", "See [all|the] offers", "Shop now", "View details", "Order {thing}"),
        *("Find out more", "Book [now|a place]", "Have a look", "To the shop", "Discover {thing}"),
    ),
    "closing": (
        "[See you|Until] {when},\n{person} [and the|from the] team at {brand}",
        "Enjoy {season},\nyour {brand} team",
        "[Kind|Warm|Best] [regards|wishes] from {place},\n{brand}",
        "Happy [reading|shopping|planning],\n{person}, {brand}",
        "Thank you for being with us,\n{person} and colleagues",
    ),
    "footer": (
        "You [get|receive] this [letter|message|mail] because you [signed up|ordered] at {brand}.",
        "Too many [letters|mails]? [Change how often we write|Choose fewer topics]: {settings_url}",
        "To leave this list [visit|go to] {settings_url}",
        "[Unsubscribe|Manage preferences|Stop these letters]: {settings_url}",
        "{brand}, [12|7|48|103] [Station|Mill|Harbour|Market] [Road|Street|Lane], {town}",
        "Prices [include|contain] tax. Offers [end|expire] on {date} or when sold out.",
    ),
}

PERSONAL: Final[Slots] = {
    "subject": (
        *("[{day}|Dinner|Lunch|Coffee] {when}?", "{event.title}", "Plans for {when}", "Photos"),
        *("A [quick|small] question about the {thing}", "The {thing} you [lent me|mentioned]"),
        *("[Thanks|Thank you] for {day}", "Trip to {place}", "{thing.title}", "News from {place}"),
        *("[Running late|Change of plan] on {day}", "Can you help with the {thing}", "Hello again"),
        *(
            "Notes from {day}",
            "Draft for {day}",
            "[Keys|Lift|Tickets] for {day}",
            "{relative.title}",
        ),
    ),
    "greeting": (
        *(
            "Hi {you},",
            "Hello {you},",
            "Dear {you},",
            "{you},",
            "Hey {you},",
            "Good morning {you},",
        ),
        "Hi,",
    ),
    "opener": (
        "[thanks|thank you] for [your message|the photos|calling|{day}], it was {good}.",
        "sorry for [the late answer|not calling|being so quiet], {day} was {bit} [hectic|long].",
        "[how are you|how is everybody|how was it in {place}]? I hope {person} is well again.",
        "just a quick [note|question] before {day}.",
        "I [talked|spoke] to {relative} yesterday and we had an idea.",
        "do you remember the {thing} we [saw|talked about] in {place}?",
        "as promised, [here is what I found|some notes] about the {thing}.",
        "I [finally|just] [got|found] the {thing} you [wanted|asked for].",
    ),
    "ask": (
        "Shall we [meet|have lunch|go for a walk] at {clock} on {day}?",
        "Could you bring the {thing} {when}? I [forgot|cannot find] mine.",
        "Would {clock} [work for|suit] you, or is {day} better?",
        "Do you [want to|think you can] come along to {event} {when}?",
        "Can I borrow your {thing} until {day}?",
        "Will you [call|ring] me when you are [home|back from {place}]?",
        "What should I tell {relative} about {event}?",
        "[Who|Do you know who] takes {relative} to {place} {when}?",
        "Could you [read|look over] the [text|list|draft] before {day}? No hurry.",
    ),
    "tell": (
        "{relative} felt {bit} [tired|ill|nervous] but wanted me to [send love|say hello].",
        "I [will be|am] at the [station|office|library] around {clock}.",
        "We moved {event} to {day} because {person} is [away|in {place}].",
        "{person} and I [painted|cleaned|measured] the [kitchen|hall|fence] and it looks {good}.",
        "I [paid|owe you] {price} for the {thing}, [we can settle it on {day}|no rush].",
        "I saw {thing} at half price [in town|near the station] and thought of you.",
        "The shop wrote that my order is [late|on its way], so no {thing} before {day}.",
        "I should unsubscribe from half of these newsletters, but the {thing} looked {good}.",
        "The [dog|cat|car|bike] is fine again, we [worried|waited] for nothing.",
        "You were right about {place}, we [laughed|talked] all evening.",
        "The [boss|teacher|doctor] [agreed|says yes|wants to see us] {when}.",
        "I left the [keys|parcel|cake tin|money for {event}] with {relative}.",
        "I have {day} off, so [there is more time|I can do more] for the {thing}.",
        "{person} starts the new job {when}, keep your fingers crossed.",
    ),
    "closing": (
        *(
            "See you [soon|{when}|there],",
            "[Love|Hugs|Lots of love],",
            "[Best|Kind] [wishes|regards],",
        ),
        *(
            "Take care,",
            "Cheers,",
            "Thanks again,",
            "Talk soon,",
            "Greetings from {place},",
            "Bye,",
        ),
    ),
    "reply": (
        "Yes, {clock} is fine, I will [bring|get] the {thing}.",
        "[Good|Great|Lovely] idea! {person} [would like|wants] to come too.",
        "I am afraid {day} does not work, {person} is [here|visiting]. What about {day}?",
        "Thanks, that helps. I will [ask|tell] {relative} [tonight|tomorrow].",
        "[Agreed|Fine with me], let us meet at the [station|café|front door].",
        "Not sure yet, I [have to|must] [ask|wait for] {person} first.",
        "I looked, but the {thing} must be at [your place|{place}|the office].",
    ),
}

SPAM: Final[Slots] = {
    "subject": (
        "YOU [HAVE WON|ARE THE WINNER OF] {prize.upper} [TODAY|NOW], CLAIM [IT|YOUR MONEY]",
        "[URGENT|FINAL] NOTICE: YOUR [PRIZE|PAYMENT|CHEQUE] OF {prize.upper} IS WAITING",
        "[CHEAP|DISCOUNT] {pill.upper} WITHOUT PRESCRIPTION, [SHIPPED|DELIVERED] WORLDWIDE",
        "[GUARANTEED|INSTANT] LOAN APPROVAL, BAD CREDIT WELCOME, {percent.upper} INTEREST",
        "LOSE WEIGHT FAST WITH {pill.upper}, RESULTS IN {count} DAYS OR MONEY BACK",
        "CONFIDENTIAL BUSINESS PROPOSAL [CONCERNING|ABOUT] {prize.upper}",
        "MAKE {prize.upper} FROM HOME, NO EXPERIENCE NEEDED, START {day.upper}",
    ),
    "prize": ("{count} million dollars", "{prize_sum} euros", "{prize_sum} dollars", "a free car"),
    "pill": ("herbal pills", "slim tablets", "vitality drops", "sleep pills", "hair tonic"),
    "pitch": (
        "Your [address|name|number] was [drawn|selected] in our [online|world] lottery.",
        "In this draw [you have won|your share is] {prize}.",
        "To [claim|release] the [funds|money] [send|reply with] your [full name|bank details].",
        "There is [only|just] a [small|one-time] fee of {price} for the [transfer|papers].",
        "[Our|The] {pill} [work|help] in only {count} days, doctors [hate|cannot believe] it!",
        "No prescription, no questions, [discreet|fast] shipping, {percent} discount on {pill}.",
        "We [offer|give] loans from {prize} at {percent} interest, bad credit is no problem.",
        "I am a [banker|lawyer|widow] and [need|seek] your help to [move|transfer] {prize}.",
        "[Act|Respond] now, this [chance|offer] [expires|ends] in {count} hours!",
        "Money back [guarantee|guaranteed], {count} happy [clients|winners] already.",
        "[Earn|Make] {prize} [each|every] month from home without [any risk|experience].",
        "This is [not a joke|one hundred percent legal], [dear|beloved] friend.",
        "Click [here|below] to [confirm|claim] before {day} or lose [it|everything].",
        "Our agent will pay you cash, [only|all you need is] trust and [be|stay] confidential.",
    ),
    "greeting": (
        *("Dear [friend|winner|beneficiary|sir],", "Attention!", "Hello dear,", "Good day,"),
        *("Congratulations!!!", "Dear [client|account holder],", "Greetings,"),
    ),
    "call": ("CLAIM NOW", "Apply [here|today]", "Click here", "ORDER NOW", "Get [paid|it] today"),
    "closing": (
        *("God bless you,\n{person} {surname}", "[Agent|Director|Barrister] {person} {surname}"),
        *("Yours [faithfully|truly],\nThe [Claims|Payment|Credit] [Office|Desk]", "Hurry!!!"),
    ),
    "sender_name": (
        *("[Claims|Payment|Award] [Office|Desk]", "{person} {surname}", "Online [Credit|Pharmacy]"),
        "[Loan|Prize] [Agent|Department]",
    ),
}

QUOTE_LINES: Final = (
    "On {sent}, {them} wrote:",
    "{them} wrote on {sent}:",
    "Am {sent} schrieb {them}:",
    "Le {sent}, {them} a écrit :",
    "On {sent} {them} said:",
)

USER_AGENTS: Final = (
    ("User-Agent", "Mozilla Thunderbird"),
    ("User-Agent", "K-9 Mail for Android"),
    ("User-Agent", "Evolution 3.46.4"),
    ("User-Agent", "Mutt/2.2.9 (2022-11-12)"),
    ("User-Agent", "Roundcube Webmail/1.6.5"),
    ("X-Mailer", "Claws Mail 4.1.1 (GTK 3.24.38; x86_64-pc-linux-gnu)"),
)

BULK_MAILERS: Final = (
    ("X-Mailer", "Listwriter 4.2"),
    ("X-Mailer", "Rundbrief 2.11"),
    ("X-Mailer", "Postal Bulk Mailer 7.0"),
)

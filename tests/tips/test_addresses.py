"""Links, addresses, numbers to call and markup in a text, also in disguise, and honest tips beside them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from time import process_time

import pytest

from tips.addresses import has_links_or_markup
from tips.candidates import GENERIC_TIP, MAX_BODY_CHARS

PHRASES = Path(__file__).parents[2] / "local" / "llm" / "phrases.toml"

LINKS_AND_MARKUP = [
    "see http://evil.example/x",
    "see https:evil",
    "see HXXPS://evil",
    "ftp://evil",
    "see //evil/x",
    "www.evil",
    "go to evil.example",
    "go to EVIL.COM now",
    "bit.ly/3xYz",
    "evil.shop",
    "пример.рф",
    "例え.jp",
    "münchen.de",
    "evil\uff0ecom",
    "evil\u2024com",
    "evil。com",
    "evil\u200b.com",
    "evil dot com",
    "evil . com",
    "evil (dot) com",
    "evil[.]com",
    "evil (.) com",
    "192.168.0.1",
    "bob@evil",
    "bob\uff20evil",
    "bob (at) evil",
    "mailto:bob",
    "javascript:alert(1)",
    "data:text/html,x",
    "tel:112",
    "call +49 30 1234567",
    "call 0800 123 456 7",
    "call 555-0123-44",
    "call (030) 12 34 56 78",
    "call 06.12.34.56.78",
    "call 0049/30/123456",
    "call 2026-555-1234",
    "call ５５５０１２３４",
    "call ٠٥٥١٢٣٤٥٦٧",
    "send to bc1qar0srrr7xfkvy5l643",
    "[read more](evil)",
    "<b>now</b>",
    "＜b＞now",
    "&lt;b&gt;",
    "**now**",
    "*now*",
    "_now_",
    "__now__",
    "~~now~~",
    "`now`",
    "# Now",
    "#now",
    "{now}",
    "[now]",
    "now | then",
    "back\\slash",
]

ORDINARY = [
    "Call at 10:30, not at 10.30 p.m.",
    "From 9:00-17:30, or 10.30-11.45 Uhr.",
    "Half past 9 (or 10) is fine.",
    "3 tasks, 2/3 done, 75 % to go.",
    "Due 2026-11-24, 24.12.2026, 24/12/2026 or 12/24/2026.",
    "On 2026/11/24 at 10:30.",
    "The plan for 2026/2027, or 2026-27.",
    "1,500 € or 1.500 € or $20?",
    "That is 10 000 steps.",
    "24/7, 9-5, 50-60 minutes, 1-2-3.",
    "z.B. heute, d.h. jetzt, u.a. auch usw.",
    "E.g. now, i.e. today; a.k.a. soon...",
    "Wait…then go on.",
    "Don't stop – it's your friend's idea: go!",
    "“Later” isn't ‘never’; «maintenant» ou jamais ?",
    "Kolleg*innen und Kolleg:innen fragen.",
    "Make it your #1, then #2.",
    "Rock & roll, this and/or that.",
    "Ph.D., U.S., e.V. and St. Gallen.",
    "Dr. Miller: ask him (today).",
    "Ready? Set! Go.",
    "+10 minutes, -5 °C, 2 × 3 = 6",
    "提示：今天先做一件事。然后休息。",
    "「今日」やる。次に休む！",
    "ابدأ بمهمة واحدة الآن، ثم استرح.",
    "आज एक काम चुनें। फिर आराम करें।",
]

DISGUISED = {
    # addresses with other signs
    "full width": "go to ｅｖｉｌ．ｃｏｍ",
    "one dot leader": "go to evil․com",
    "ideographic stop": "go to evil。com",
    "half-width stop": "go to evil｡com",
    "small stop": "go to evil﹒com",
    "middle dot": "go to evil·com",
    "bullet": "go to evil • com",
    "katakana dot": "go to evil・com",
    "dot operator": "go to evil⋅com",
    "Urdu stop": "go to evil۔com",
    "dot above": "go to evil˙com",
    "comma": "go to evil,com",
    "low quote": "go to evil‚com",
    "quoted dot": "go to evil'.'com",
    "curly quotes": "go to evil”.”com",
    "brackets": "go to evil(.)com",
    "blanks": "go to evil . com",
    "blank before": "go to evil .com",
    "zero width": "go to evil\u200b.\u200bcom",
    "soft hyphen": "go to ev\u00adil.c\u00adom",
    "slash of fractions": "go to http:⁄⁄evil",
    "other colon": "go to https꞉//evil",
    "no dots": "go to www evil com",
    "scheme alone": "go to http evil",
    "shouted": "go to EVIL.COM",
    # other letters
    "Cyrillic": "go to еvіl.соm",
    "Cyrillic ending": "go to evil dоt соm",
    "Greek": "go to evil dοt cοm",
    "mathematical": "go to 𝐞𝐯𝐢𝐥.𝐜𝐨𝐦",
    "script": "go to 𝓮𝓿𝓲𝓵.𝓬𝓸𝓶",
    "circled": "go to ⓔⓥⓘⓛ.ⓒⓞⓜ",
    "negative circled": "go to 🅔🅥🅘🅛.🅒🅞🅜",
    "squared": "go to 🅴🆅🅸🅻.🅲🅾🅼",
    "flags": "go to 🇪🇻🇮🇱.🇨🇴🇲",
    "small capitals": "go to ᴇᴠɪʟ.ᴄᴏᴍ",
    "small capitals, dot": "go to ᴇᴠɪʟ ᴅᴏᴛ ᴄᴏᴍ",
    "accents": "go to ëvïl.çöm",
    # spelled out
    "dot": "go to evil dot com",
    "d0t": "go to evil d0t com",
    "hyphens": "go to evil-dot-com",
    "underscores": "go to evil_dot_com",
    "glued": "go to evildotcom",
    "round brackets": "go to evil(dot)com",
    "letters apart": "go to e v i l . c o m",
    "letters and dot apart": "go to evil d o t c o m",
    "hyphenated letters": "go to e-v-i-l.c-o-m",
    "dotted letters": "go to e.v.i.l.c.o.m",
    "German": "geh auf evil Punkt com",
    "French": "va sur evil point com",
    "Spanish": "ve a evil punto com",
    "Portuguese": "vá a evil ponto com",
    "Polish": "wejdź na evil kropka com",
    "Turkish": "git evil nokta com",
    "Russian": "зайди на evil точка ком",
    "Russian ending": "зайди на сайт точка рф",
    "Japanese": "evilドットコムへ",
    "Chinese": "请看 evil点com",
    "Korean": "evil닷컴 으로",
    "Arabic": "اذهب إلى evil نقطة كوم",
    "Hebrew": "לך אל evil נקודה קום",
    "Hindi": "evil डॉट कॉम पर जाओ",
    "Thai": "ไปที่ evil ดอทคอม",
    # mail
    "mail": "write bob at evil dot com",
    "mail in brackets": "write bob (at) evil",
    "mail, German": "schreib bob ät evil Punkt de",
    "mail, Spanish": "escribe a bob arroba evil punto es",
    "mail, Russian": "пиши bob собака evil точка ru",
    "mail, full width": "write bob＠evil",
    "mail, small": "write bob﹫evil",
    # numbers
    "blanks in a number": "call 4 9 3 0 1 2 3 4",
    "dots in a number": "call 49·30·12·34·56",
    "underscored number": "call 49_301_234_56",
    "starred number": "call 49*301*234*56",
    "dashes": "call 0800–123–4567",
    "commas": "call 4,9,3,0,1,2,3,4",
    "full-width number": "call ４９３０１２３４",
    "superscripts": "call ⁴⁹³⁰¹²³⁴",
    "subscripts": "call ₄₉₃₀₁₂₃₄",
    "circled number": "call ④⑨③⓪①②③④",
    "negative circled number": "call ❹❾❸⓿❶❷❸❹",
    "keycaps": "call 4️⃣9️⃣3️⃣0️⃣1️⃣2️⃣3️⃣",
    "dice": "call ⚃⚅⚂⚀⚀⚁⚂⚃",
    "mathematical number": "call 𝟒𝟗𝟑𝟎𝟏𝟐𝟑𝟒",
    "Arabic number": "اتصل ٠٥٥ ١٢٣ ٤٥٦٧",
    "Persian number": "زنگ بزن ۰۹۱۲۳۴۵۶۷۸",
    "Devanagari number": "९८७ ६५४ ३२१०",
    "Bengali number": "কল ৯৮৭৬৫৪৩২১০",
    "Thai number": "โทร ๐๘๑๒๓๔๕๖๗๘",
    "letters for digits": "call O8OO l23 4S6",
    "mixed letters for digits": "call 0I80O I234",
    "zero-width number": "call 49\u200b30\u200b12\u200b34",
    "English words": "call four nine three zero one two three",
    "English words, hyphens": "call four-nine-three-zero-one-two-three",
    "words and digits": "call four 9 three 0 one 2 three",
    "double": "call oh eight double zero one two three",
    "tens": "call plus forty nine thirty twelve thirty four",
    "German words": "ruf an: null acht null null eins zwei drei",
    "French words": "appelle zéro huit zéro zéro un deux trois",
    "Spanish words": "llama al nueve cero cero uno dos tres",
    "Italian words": "chiama otto zero zero uno due tre",
    "Portuguese words": "liga nove um dois três quatro cinco",
    "Dutch words": "bel nul acht nul nul een twee drie",
    "Polish words": "dzwoń osiem zero zero jeden dwa trzy",
    "Turkish words": "ara sıfır sekiz sıfır bir iki üç",
    "Russian words": "звони восемь девять ноль ноль один два",
    "Arabic words": "اتصل صفر ثمانية صفر واحد اثنان ثلاثة",
    "Hindi words": "कॉल नौ आठ सात छह पाँच चार",
    "Chinese numerals": "打电话八零零一二三四",
    "Chinese, traditional": "撥打〇九一二三四五六七八",
    "Japanese words": "電話は ゼロ はち ゼロ いち に さん",
    "Korean words": "전화 공 팔 공 일 이 삼 사",
    "IP in words": "open one nine two dot one six eight dot zero dot one",
    "IP": "open 192.168.0.1",
    # written after the rules
    "later 0": "visit evil﹒net",
    "later 1": "schau auf evil[punkt]net",
    "later 2": "besuche evil punkt org slash login",
    "later 3": "evil—dot—com",
    "later 4": "mira evil (punto) com",
    "later 5": "vai su evil punto com",
    "later 6": "evil ponto net",
    "later 7": "evil ∙ com",
    "later 8": "evil.c0m",
    "later 9": "ring 0 8 0 0 1 2 3",
    "later 10": "ring 08oo123456",
    "later 11": "ring null-acht-null-null eins zwei",
    "later 12": "appelez le 06/12/34/56/78",
    "later 13": "llama 6 5 4 3 2 1 0",
    "later 14": "write me: bob AT evil DOT com",
    "later 15": "bob at evil dot de",
    "later 16": "зайди evil·ru",
    "later 17": "напиши на evil точка com",
    "later 18": "évil․com",
    "later 19": "wählt ①①② ③③④ ⑤",
    "later 20": "evil,net",
    "later 21": "go: evil <dot> com",
    "later 22": "ｗｗｗ.evil",
    "later 23": "call (555) 0 1 2 3 4",
    "later 25": "call 5 5 5 zero 1 2 3",
    "later 26": "call five five five, oh one two three",
    "later 27": "WhatsApp 49 / 151 / 23 45 67",
    "later 28": "ａｔ evil．ｎｅｔ",
    "later 29": "evil点net",
    "later 30": "請到evil點net",
    "later 31": "evil닷net",
    "later 32": "evil . net",
    "later 33": "l.i.n.k.n.e.t",
    # passing
    "no sign at all": "go to evil com",
    "emoji": "go to evil ⚫ com",
    "another word": "go to evil plus the usual ending for companies",
    "upside down": "go to ɯoɔ lᴉʌǝ",
    "Roman": "call IV IX III I II III IV",
    "a story": "call the number of dwarfs, then that of the days of a week, twice",
    "Dutch tens": "bel 06 twaalf 34 56 78",
    "times": "call 04:93 then 01:23 then 45:07",
}
"""Disguised addresses and numbers; the last ones are read by people, too, and pass."""

N_PASSING = 8

HONEST = [
    "Dot the i's and cross the t's before you send it.",
    "One, two, three: pick the first and begin.",
    "At this point in time, choose one task and stay with it.",
    "Take five minutes at ten, then five more at eleven.",
    "Two or three short calls before noon make the afternoon free.",
    "It is 10 to 12, so do it now; at 12 you can rest.",
    "Plan 10, 20 or 30 minutes, then stop.",
    "S.M.A.R.T. goals: small ones first.",
    "Start at the point that is easiest. Come back to the rest later.",
    "By 9:00, 12:30 and 17:45 you could have one done each.",
    "Ask for the net amount, compare, and decide today.",
    "Set a period of quiet. Online calls can wait.",
    "A, B and C come first; D can wait.",
    "I am at my best at 8 or 9; are you?",
    "Top 3 of the day: choose them, then close the list.",
    "Give it 2 x 25 minutes with a break of 5.",
    "Do 1 thing in 1 hour with 0 breaks.",
    "Is it a 10 so far? Or is it 15 to go?",
    "From A to B in 30 min; 15 of them are for coffee.",
    "10-15 minutes – no more: 5 to read, 5 to sort, 5 to answer.",
    "Mon 9-12, Tue 9-12, Wed 14-17: keep these for deep work.",
    "Pay before 30.11.2026, 18:00, and put 1.250,00 € aside.",
    "Komm auf den Punkt: Ein Schritt nach dem anderen.",
    "Der Punkt ist: eins nach dem anderen, dann Pause.",
    "Nimm dir um 10 Uhr z. B. eine Stunde, u. a. für Anrufe.",
    "Erst drei, vier kleine Dinge, dann das große um 14.30 Uhr.",
    "Fang an. Net so schlimm, wie es aussieht.",
    "Mach's gut: ein, zwei Anrufe und fertig.",
    "Fais le point: une tâche à la fois, puis une pause.",
    "Au point où tu en es, dix minutes suffisent.",
    "Un, deux, trois, partez: commence par la plus courte.",
    "Passe chez Martin à 17 h 30, puis rentre.",
    "Hasta este punto vas bien. Como siguiente paso, elige una.",
    "Uno o dos recados a las 10, tres o cuatro a las 12.",
    "Termine agora. Com calma, escolha uma tarefa.",
    "Um passo de cada vez. Com dez minutos já se começa.",
    "Mettici un punto. Come prossimo passo, sei minuti bastano.",
    "Due o tre cose, sei o sette minuti: basta così.",
    "A che punto sei? Otto minuti e la lista è corta.",
    "Op dat punt de eerste taak, dan een of twee andere.",
    "Een voor een: twee of drie taken per dag.",
    "Börja med en punkt. Om fem eller sex minuter är du klar.",
    "Jeden krok na raz. Dwa lub trzy zadania przed obiadem.",
    "Postaw kropkę. Com zrobisz dziś, tego nie zrobisz jutro.",
    "Bir adım at. İki ya da üç iş öğleden önce biter.",
    "Nokta koy ve bir sonraki işe geç.",
    "Aloita yhdestä. Piste, sitten tauko.",
    "Поставь точку. Один или два звонка до обеда.",
    "Начни с одного дела: раз, два, три — и готово.",
    "Зроби крапку. Три або чотири справи на день.",
    "Ξεκίνα με ένα. Δύο ή τρία πράγματα αρκούν.",
    "ابدأ بمهمة واحدة، ثم اثنتين، ثم استرح.",
    "عند هذه النقطة اختر ثلاثة أو أربعة أشياء.",
    "התחל בנקודה אחת. שתיים או שלוש משימות מספיקות.",
    "एक काम चुनें। दो या तीन और बाद में करें।",
    "इस बिंदु पर पाँच मिनट रुकें।",
    "今日の一つ目を選んで、三十分だけ進めましょう。",
    "この点に注意。一、二件だけ先に片付けます。",
    "午前・午後で分けて、一つずつ進める。",
    "先做一件事，再做两三件小事。",
    "这一点很重要：十分钟就够了。",
    "第一、第二、第三，一步一步来。",
    "먼저 한 가지를 고르고 십 분만 해 보세요.",
    "이 점이 중요해요. 일이 사이사이 쉬어 가세요.",
    "เลือกหนึ่งงาน แล้วทำสองหรือสามอย่างก่อนเที่ยง",
    "จุดนี้สำคัญ เริ่มจากงานสั้นที่สุด",
    "Bắt đầu với một việc, hai hoặc ba việc khác để sau.",
    "Mulai dari satu titik. Dua atau tiga tugas cukup.",
    "Col·lega, comença per una tasca: l'hora és bona.",
    "Þetta er punkturinn: eitt í einu.",
    "Ezt a pontot zárd le, aztán jöhet a többi.",
    "Tečka na konec. Dva nebo tři úkoly do oběda.",
    "Schreib um 8 Uhr, ruf um 9 Uhr an, und um 10 Uhr hast du frei.",
    "Pick three: one at home, one at work, one for you.",
    "Zuerst 1 Anruf, dann 2 Mails, zum Schluss 3 Notizen.",
    "Trois appels avant 11 h 15, deux après, un ce soir.",
    "Set 20 min at 16:40; at 17:00 you are done!",
    "Half an hour is enough: 5 to plan, 20 to do, 5 to tidy up.",
    "Haz una lista corta: uno, dos o tres puntos; come bien y descansa.",
    "Notez le point principal, puis un net progrès.",
    "Wypisz jeden punkt, com potem odhacz.",
    "Put 2026-12-01 in the calendar (Tue, 9 a.m.), then 2026-12-08.",
    "二つ三つまとめて、五分ずつ進めましょう。",
    "第一点：先休息十分钟；第二点：再做三件小事。",
    "하나, 둘, 셋! 가장 짧은 일부터 시작하세요.",
    "До 12:00 — два звонка, после — один отчёт; точка.",
    "Keep it simple: a to-do a day, e.g. at 7.30 or 8.15.",
    "Look at Q1/Q2 goals; 3-4 items, max. 45 min each.",
    "Fold, wash, iron: do them in one go, Mon.-Wed.",
    "Dot by dot, the picture gets clear.",
    "Period. Then come back at two or three.",
    "Eat, sleep, plan. Repeat at 6, 7 or 8.",
]
"""Honest tips in many languages, with numbers, signs and words that disguises use as well."""


@pytest.mark.parametrize("text", LINKS_AND_MARKUP)
def test_links_and_markup(text: str) -> None:
    """Links, addresses, telephone numbers, codes and markup are found, common disguises included."""
    assert has_links_or_markup(text)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary(text: str) -> None:
    """Dates, times, amounts, abbreviations and ordinary punctuation are not taken for links or markup."""
    assert not has_links_or_markup(text)


def test_disguised() -> None:
    """Of the disguised addresses and numbers only the last ones pass, which no rule could tell from honest texts."""
    passing = [name for name, text in DISGUISED.items() if not has_links_or_markup(text)]
    assert passing == list(DISGUISED)[-N_PASSING:]
    assert len(DISGUISED) - N_PASSING >= 79


@pytest.mark.parametrize("text", HONEST)
def test_honest(text: str) -> None:
    """An honest tip in any language passes."""
    assert not has_links_or_markup(text)


def test_phrases() -> None:
    """Every phrase of the local LLM and the generic tip pass."""
    sections = tomllib.loads(PHRASES.read_text("utf-8")).values()
    texts = [
        text.format(what=section[number], What=section[number].capitalize())
        for section in sections
        for phrase in section["phrases"]
        for text in phrase
        for number in ("one", "many")
    ]
    assert [text for text in (*texts, GENERIC_TIP.title, GENERIC_TIP.body) if has_links_or_markup(text)] == []


@pytest.mark.parametrize("part", ["OIOIOIOIOIOI1x ", "OO1 ", "1 O", "dot ", "a-", "一 二 三 四 五 x "])
def test_duration(part: str) -> None:
    """The checks of the longest text take less than a CPU second, however the text is made."""
    began = process_time()
    has_links_or_markup((part * MAX_BODY_CHARS)[:MAX_BODY_CHARS])
    assert process_time() - began < 1

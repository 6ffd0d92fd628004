"""Prompts that tokenizers get wrong."""

import random

_ODD = """
a photo of a cat
A Photo Of A CAT
Wow!
wow!! really?!
!
!!!
! a ! b
a fox in the snow, highly detailed, 8k, artstation
(masterpiece:1.2), [blurry], ((red fox)), {best quality}
\\(escaped\\) \\[too\\] \\\\
<lora:fox:0.8> <fox> <|fox|>
<|startoftext|> a cat <|endoftext|>
<Cat-Toy> <cat-toy>_1 <bird> <Dog> <dog> <Fox> <fox> <FOX> <More>_1 <more>fox2
<|STARTOFTEXT|> a cat <|EndOfText|>
a<|endoftext|>b
it's, I've, we'll, they'd, I'm, you're, don't, 's 't
IT'S I'VE O'Clock ' '' '''
2 cats, 12 dogs, 1234567890, 3.14, 1,000, 0x1F, ½ Ⅷ ① ٣
😀 a 🦊 in the ❄️ snow 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽
狐狸在雪地里 きつね 여우 キツネ
лиса на снегу, ΑΛΕΠΟΎ στο χιόνι, الثعلب, שועל, लोमड़ी, จิ้งจอก
café naïve Ångström fiancée ǆ ﬁ ﬂ
cafe\u0301 nai\u0308ve A\u030angstro\u0308m e\u0301\u0323 x\u0327\u0301
İstanbul ı ß ẞ ŉ ΐ ς Σ ΑΣ
a\tb\u00a0c\u2003d\u200be\ufefff\u3000g
a_b-c/d\\e|f@g#h$i%j^k&l*m+n=o~p`q"r
http://example.org/fox?x=1&y=2#z
... -- — – … “quoted” ‘so’ «so» ¿que? ¡si!
supercalifragilisticexpialidocious antidisestablishmentarianism
\x00\x01\x7f \ufffd \ud7ff \ue000
𝔣𝔬𝔵 𝟘𝟙𝟚 𠮷 🂡
&amp; &lt;b&gt; <b>bold</b> &#39; &nbsp;
A B  C   D    E
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
FOXfoxFoxfOX fox2fox fox's2
"""
_SPACES = ["", " ", "\n", "\t \n", " a cat ", "a\ncat\r\nin\n\nthe snow", "a cat\u2028b", "\u200d"]


def prompts(num: int = 300) -> list[str]:
    """Some that are known to be odd, then random ones of what they are made of."""
    odd = [*_ODD.strip("\n").split("\n"), *_SPACES]
    odd += ["fox " * 200, "a red fox, " * 40, "!" * 90, "🦊" * 60, " ".join(map(str, range(200)))]
    dice = random.Random(0)
    pieces = [piece for text in odd for piece in text.split(" ")] + ["(", ")", "[", "]", ",", "."]
    while len(odd) < num:
        some = dice.choices(pieces, k=dice.randint(1, 30))
        odd.append(dice.choice(["", " ", "  "]).join(some))
    return odd[:num]

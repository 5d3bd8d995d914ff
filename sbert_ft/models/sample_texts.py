"""The texts on which an exported graph is compared with torch, and calibrated, where none are given.

Half are English and half Korean, from one word to about sixty, about many things and in several tones.
"""

from __future__ import annotations

from typing import Final

ENGLISH: Final = (
    "Rain.",
    "Where is the nearest pharmacy?",
    "A man is playing a guitar on the street.",
    "Someone makes music outside.",
    "The cat sleeps on the warm window sill.",
    "Your parcel was delivered today at 14:32.",
    "How do I reset my password?",
    "I forgot my login details and cannot sign in.",
    "Interest rates rose by half a percentage point.",
    "The bank raised its rates again this month.",
    "She did not like the film at all.",
    "What a wonderful evening that was!",
    "Two children are kicking a ball across the wet grass.",
    "The committee will meet again on Thursday, 12 March 2026, at nine o'clock.",
    "Please turn off the lights and close all windows before you leave the office.",
    "The train from the north is delayed by forty minutes because of a fallen tree.",
    "Aspirin should not be given to children under the age of twelve without a doctor's advice.",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen with the energy of light.",
    "In 1969 two astronauts walked on the Moon while a third one stayed in orbit above them.",
    "The recipe asks for 200 g of flour, three eggs, a pinch of salt and a quarter of a litre of milk.",
    "Although the sample was small, the difference between the two groups was large enough to be significant.",
    "If the printer shows error E04, remove the paper tray, take out any torn paper, and switch the printer on again.",
    "The new library, which opened last spring after six years of building, has room for half a million books and "
    "gets about two thousand visitors a day.",
    "We looked at the flat on Saturday: the kitchen is tiny, but the living room gets sun all afternoon, and the "
    "school is only a five minute walk away.",
    "The defendant argued that the contract was void because neither side had signed the second page, while the "
    "plaintiff pointed to the payments that both had made for more than three years.",
    "Customers who bought the ticket online can change the date once without a fee, as long as they do so at least "
    "two days before the journey, and as long as there are seats left on the other train.",
    "The storm reached the coast shortly after midnight, tore the roofs from several houses near the harbour, and "
    "left about ten thousand people without power until the following evening, when the last of the lines had been "
    "repaired.",
    "A good sourdough needs time more than skill: feed the starter in the evening, mix the dough in the morning, fold "
    "it every half hour until noon, and let it rest in a cool place overnight, so that the crust blisters and the "
    "crumb stays open and moist when you finally bake it in a very hot oven.",
    "def add(a, b): return a + b",
    "HELLO??? is anybody there",
    "no refunds, no exchanges",
    "The function returns the sum of its two arguments.",
)

KOREAN: Final = (
    "비가 온다.",
    "가장 가까운 약국이 어디예요?",
    "한 남자가 거리에서 기타를 치고 있다.",
    "누군가 밖에서 음악을 연주한다.",
    "고양이가 따뜻한 창가에서 자고 있다.",
    "고객님의 택배가 오늘 14시 32분에 배송되었습니다.",
    "비밀번호를 어떻게 재설정하나요?",
    "로그인 정보를 잊어버려서 접속할 수 없습니다.",
    "기준금리가 0.5퍼센트포인트 올랐다.",
    "은행이 이번 달에 또 금리를 인상했다.",
    "그녀는 그 영화를 전혀 좋아하지 않았다.",
    "정말 멋진 저녁이었어요!",
    "두 아이가 젖은 잔디 위에서 공을 차고 있다.",
    "위원회는 2026년 3월 12일 목요일 오전 9시에 다시 열립니다.",
    "퇴근하기 전에 불을 끄고 모든 창문을 닫아 주세요.",
    "쓰러진 나무 때문에 북쪽에서 오는 열차가 40분 지연되고 있습니다.",
    "열두 살 미만의 어린이에게는 의사의 조언 없이 아스피린을 먹이면 안 됩니다.",
    "광합성은 빛 에너지로 이산화탄소와 물을 당과 산소로 바꾸는 과정이다.",
    "1969년에 우주비행사 두 명이 달 위를 걸었고, 다른 한 명은 궤도에 남아 있었다.",
    "이 요리에는 밀가루 200그램, 달걀 세 개, 소금 한 꼬집, 우유 250밀리리터가 필요하다.",
    "표본은 작았지만 두 집단의 차이는 통계적으로 유의할 만큼 컸다.",
    "프린터에 E04 오류가 나타나면 용지함을 빼고 찢어진 종이를 제거한 다음 전원을 다시 켜십시오.",
    "여섯 해의 공사 끝에 지난봄 문을 연 새 도서관은 책 오십만 권을 소장할 수 있으며 하루에 약 이천 명이 찾는다.",
    "토요일에 집을 보러 갔는데 부엌은 아주 작지만 거실에는 오후 내내 햇빛이 들고 학교도 걸어서 오 분 거리에 있다.",
    "피고는 양쪽 모두 두 번째 쪽에 서명하지 않았으므로 계약이 무효라고 주장했고, 원고는 양측이 삼 년 넘게 대금을 "
    "지급해 왔다는 점을 지적했다.",
    "온라인으로 표를 구매한 고객은 출발 이틀 전까지, 그리고 다른 열차에 좌석이 남아 있는 경우에 한하여 수수료 없이 "
    "한 번 날짜를 바꿀 수 있다.",
    "폭풍은 자정 직후 해안에 도달하여 항구 근처 여러 집의 지붕을 날려 버렸고, 마지막 전선이 복구된 다음 날 저녁까지 "
    "약 만 명의 주민이 전기 없이 지내야 했다.",
    "좋은 사워도우에는 솜씨보다 시간이 더 필요하다. 저녁에 발효종에 먹이를 주고 아침에 반죽을 섞은 뒤 정오까지 삼십 "
    "분마다 접어 주고, 밤새 서늘한 곳에 두면 아주 뜨거운 오븐에서 구웠을 때 껍질은 바삭하고 속은 촉촉해진다.",
    "환불 및 교환 불가",
    "여보세요??? 아무도 없어요",
    "배송비는 얼마인가요?",
    "이 함수는 두 인수의 합을 돌려준다.",
)
